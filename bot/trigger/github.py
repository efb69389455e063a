"""GitHub's events: name and payload → `Event` → what it asks for. Pure; decides nothing that needs a look at GitHub.

A payload is a stranger's JSON: whatever is not as GitHub documents it is read as missing.
https://docs.github.com/en/webhooks/webhook-events-and-payloads
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bot.forge import Comment, Kind
from bot.trigger import hub
from bot.trigger.command import Command, Misread, first_line
from bot.trigger.command import read as read_command
from bot.trigger.payload import COMMIT, MARKED, REPO_ID, at, text

OWN_JOB = frozenset({"workflow_dispatch", "push", "schedule", "repository_dispatch"})
PULL_REQUEST = frozenset({"pull_request", "pull_request_target"})
COMMENTS: dict[str, Kind] = {"issue_comment": "issue", "pull_request_review_comment": "review"}
LOOKED_AT = frozenset({"opened", "reopened", "synchronize", "ready_for_review"})
# Addresses of models in a text. A model's page and its files; not a dataset, a Space or a page of the Hub itself.
LINK = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/(?!(?:datasets|spaces|docs|papers|blog|collections|api|settings)/)"
    r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})",
    re.ASCII,
)
MOST_LINKS = 10


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened, as far as the bot is concerned.

    `delivery` tells two of them apart; `actor` is who caused it. `number` is the GitHub PR or issue, with `on_pull` for
    a GitHub PR; `text` its title and description. `head_sha` is its head where the payload says it. `adapter` and
    `revision`: what a Hub webhook or a caller has sent along; `skip` says why there is nothing in it for us.
    """

    name: str
    action: str = ""
    delivery: str = ""
    actor: str = ""
    repository: str = ""
    number: int | None = None
    on_pull: bool = False
    head_sha: str = ""
    text: str = ""
    comment: Comment | None = None
    by_bot: bool = False
    adapter: str = ""
    revision: str = ""
    skip: str = ""


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """Nothing is to be done, and why: for the log."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class OwnJob:
    """The job that the inputs describe; with an adapter, that one where the inputs name none."""

    adapter: str = ""
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class Look:
    """The adapters that the GitHub PR changes are to be looked at."""


Intent = Ignored | OwnJob | Look | Command | Misread


def event(name: str, payload: object, *, delivery: str = "") -> Event:
    """The event of a payload. Never raises."""
    data = payload if isinstance(payload, dict) else {}
    found: dict[str, Any] = {
        "name": name,
        "action": text(data, "action"),
        "delivery": delivery,
        "actor": text(data, "sender", "login"),
        "repository": text(data, "repository", "full_name"),
    }
    if name in PULL_REQUEST:
        found |= _pull(data, "pull_request")
    elif name in COMMENTS:
        found |= _commented(data, COMMENTS[name])
    elif name == "repository_dispatch":
        found |= _dispatched(at(data, dict, "client_payload") or {})
    elif name == "push" and at(data, bool, "deleted"):
        found["skip"] = "a branch was deleted"
    return Event(**found)


def intent(event: Event) -> Intent:
    """What the event asks for."""
    if event.name in OWN_JOB:
        if event.skip:
            return Ignored(reason=event.skip)
        return OwnJob(adapter=event.adapter, revision=event.revision)
    if event.name in PULL_REQUEST:
        if event.number is None or event.action not in LOOKED_AT:
            return Ignored(reason=f"{event.name} {event.action or 'without an action'} changes no files")
        return Look()
    if event.name in COMMENTS:
        return _command(event)
    unset = "GITHUB_EVENT_NAME is not set, so this is no step of a workflow"
    return Ignored(reason=f"{event.name} is none of the events that the bot answers" if event.name else unset)


def links(words: str) -> tuple[str, ...]:
    """The models on the Hub that a text links to, each once, in their order."""
    found = (name.rstrip(".") for name in LINK.findall(words))
    return tuple(dict.fromkeys(name for name in found if REPO_ID.fullmatch(name)))[:MOST_LINKS]


def _command(event: Event) -> Intent:
    comment = event.comment
    if event.action != "created":
        return Ignored(reason="a comment that was edited or deleted asks for nothing")
    if comment is None or event.number is None:
        return Ignored(reason="the comment cannot be read")
    if event.by_bot or MARKED in comment.body:
        return Ignored(reason="bots give no commands")
    if first_line(comment.body) is None:
        return Ignored(reason="the comment is no command")
    if not event.on_pull:
        return Misread(
            sentence="Commands are for GitHub PRs, and this is an issue.",
            advice="Write the same under a GitHub PR.",
        )
    return read_command(comment.body) or Ignored(reason="the comment is no command")


def _commented(data: dict[str, Any], kind: Kind) -> dict[str, Any]:
    below = "issue" if kind == "issue" else "pull_request"
    found = _pull(data, below)
    number = at(data, int, "comment", "id")
    body, author = text(data, "comment", "body"), text(data, "comment", "user", "login")
    if number is not None and author:
        found["comment"] = Comment(
            id=number, author=author, body=body, url=text(data, "comment", "html_url"), kind=kind
        )
    by_app = at(data, dict, "comment", "performed_via_github_app") is not None
    is_bot = text(data, "comment", "user", "type") == "Bot" or author.endswith("[bot]")
    found["by_bot"] = is_bot or by_app
    seen = text(
        data, "comment", "original_commit_id"
    )  # at a line of code: the commit that its author has seen
    if COMMIT.fullmatch(seen):
        found["head_sha"] = seen
    found["on_pull"] = kind == "review" or at(data, dict, "issue", "pull_request") is not None
    return found


def _pull(data: dict[str, Any], below: str) -> dict[str, Any]:
    sha = text(data, below, "head", "sha")
    return {
        "number": at(data, int, below, "number"),
        "on_pull": below == "pull_request",
        "head_sha": sha if COMMIT.fullmatch(sha) else "",
        "text": f"{text(data, below, 'title')}\n{text(data, below, 'body')}",
    }


def _dispatched(sent: dict[str, Any]) -> dict[str, Any]:
    """A Hub webhook's payload as a relay sends it on, or `adapter` and `revision` by themselves.

    https://huggingface.co/docs/hub/webhooks: Hub PRs, the bot's own too, move refs other than main.
    """
    told = hub.event(sent)
    if told.refs and hub.MAIN not in told.refs:
        return {"skip": "the Hub tells of refs other than main, such as Hub PRs"}
    adapter = text(sent, "adapter") or (told.repository if told.kind in {"", "model"} else "")
    revision = text(sent, "revision") or told.commit
    named = REPO_ID.fullmatch(adapter) is not None
    safe = re.fullmatch(r"[\w][\w./-]{0,199}", revision, re.ASCII) is not None
    return {"adapter": adapter, "revision": revision if safe else ""} if named else {}
