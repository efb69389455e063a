"""The Hub's webhooks: payload → `HubEvent` → what it asks for. Pure; decides nothing that needs a look at the Hub.

The client's own model of these payloads reads fields that the Hub does not send, and refuses repository types that it
does not know, so they are read here. https://huggingface.co/docs/hub/webhooks (version 3)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bot.trigger.command import Command, Misread, first_line
from bot.trigger.command import read as read_command
from bot.trigger.payload import MARKED, REPO_ID, at, commit, text

MAIN = "refs/heads/main"
CONTENT, COMMENT, DISCUSSION = "repo.content", "discussion.comment", "discussion"


@dataclass(frozen=True, kw_only=True)
class HubEvent:
    """What happened, as far as the bot is concerned; whatever the payload does not say is empty or None.

    `kind` is the repository's type, `moved_to` its new name. `commit` is where main is now and `before` where it was;
    `refs` are all that moved. `number` is the discussion, a Hub PR with `on_pull`; `comment` the id of the comment in
    it, `body` its text, and `author` the id (no name) of whoever wrote it.
    """

    scope: str = ""
    action: str = ""
    kind: str = ""
    repository: str = ""
    moved_to: str = ""
    refs: tuple[str, ...] = ()
    commit: str = ""
    before: str = ""
    number: int | None = None
    on_pull: bool = False
    comment: str = ""
    body: str = ""
    author: str = ""
    hidden: bool = False


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """Nothing is to be done, and why: for the log."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Push:
    """The main branch of a model repository is at `commit` now; `before` is where it was, None where it is new."""

    repository: str
    commit: str
    before: str | None = None


Intent = Ignored | Push | Command | Misread


def event(payload: object) -> HubEvent:
    """The event of a payload. Never raises."""
    name = text(payload, "repo", "name")
    main, refs = _refs(at(payload, list, "updatedRefs"))
    here = commit(main, "newSha") if main or refs else commit(payload, "repo", "headSha")
    return HubEvent(
        scope=text(payload, "event", "scope"),
        action=text(payload, "event", "action"),
        kind=text(payload, "repo", "type"),
        repository=name if REPO_ID.fullmatch(name) else "",
        moved_to=text(payload, "movedTo", "name"),
        refs=refs,
        commit=here,
        before=commit(main, "oldSha"),
        number=at(payload, int, "discussion", "num"),
        on_pull=at(payload, bool, "discussion", "isPullRequest") is True,
        comment=text(payload, "comment", "id"),
        body=text(payload, "comment", "content"),
        author=text(payload, "comment", "author", "id"),
        hidden=at(payload, bool, "comment", "hidden") is True,
    )


def intent(event: HubEvent) -> Intent:
    """What the event asks for."""
    if not event.repository:
        return Ignored(reason="the payload names no repository")
    if event.kind != "model":
        return Ignored(reason=f"{event.repository} is no model but a {event.kind or 'nameless thing'}")
    if _is(event, CONTENT):
        return _push(event)
    if event.scope in {COMMENT, DISCUSSION} and event.action == "create":
        return _command(event)
    return Ignored(reason=_nothing(event))


def delivery_key(event: HubEvent) -> str:
    """What tells two events apart; a delivery has no id, and comes again when the Hub gets no answer."""
    if event.comment:  # a new discussion and its first comment are one thing, of which the Hub may tell twice
        parts = [event.repository, "comment", event.comment, event.action]
    else:
        parts = [event.repository, event.scope, event.action, event.before, event.commit, *sorted(event.refs)]
    return f"hub-{hashlib.sha256(json.dumps([*parts, event.number]).encode()).hexdigest()[:40]}"


def _nothing(event: HubEvent) -> str:
    if _is(event, DISCUSSION):
        return "what is edited, hidden or closed asks for nothing"
    if event.action == "move":
        return f"{event.repository} is called {event.moved_to or 'something else'} now"
    return f"{event.scope or 'no scope'} {event.action or 'without an action'} adds no adapter"


def _push(event: HubEvent) -> Ignored | Push:
    if event.refs and MAIN not in event.refs:
        return Ignored(reason="refs other than main, such as those of Hub PRs, hold nothing to publish")
    if not event.commit:
        return Ignored(reason="the main branch is gone, or the payload does not say where it is")
    return Push(repository=event.repository, commit=event.commit, before=event.before or None)


def _command(event: HubEvent) -> Ignored | Command | Misread:
    if event.number is None or event.number < 1 or not event.comment or event.hidden:
        return Ignored(reason="the comment cannot be read")
    if MARKED in event.body:
        return Ignored(reason="bots give no commands")
    if first_line(event.body) is None:
        return Ignored(reason="the comment is no command")
    return read_command(event.body) or Ignored(reason="the comment is no command")


def _is(event: HubEvent, scope: str) -> bool:
    """Whether it is of this scope or a narrower one, which the Hub may add at any time."""
    return event.scope == scope or event.scope.startswith(f"{scope}.")


def _refs(moved: list[Any] | None) -> tuple[Any, tuple[str, ...]]:
    """The entry of the main branch, if there is one, and the names of all refs that moved."""
    named = [(name, entry) for entry in moved or [] if (name := text(entry, "ref"))]
    main = next((entry for name, entry in named if name == MAIN), None)
    return main, tuple(name for name, _ in named)
