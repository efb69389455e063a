"""What the templates say: times, stages, sizes, links and log lines. Pure; Jinja escapes what comes out of here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import quote

from bot.job import Job, Now, Outcome
from bot.jobs.order import ACTIVE, Entry, Line, State
from bot.publish.comment import STAGES
from bot.publish.escape import no_paths
from bot.publish.outcome_text import title
from bot.records import Pinned, Plan
from bot.secret_text import masked
from bot.wording import duration, peft_type, size, span

# Terminals' commands: CSI and OSC sequences, and what else begins with an escape (ECMA-48).
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]?")
LONGEST_LINE = 1000
LONGEST_NAME = 200
STATES: dict[State, str] = {
    "queued": "Queued",
    "running": "Running",
    "cancelling": "Stopping",
    "published": "Published",
    "refused": "Refused",
    "skipped": "Not published",
    "failed": "Failed",
}
HOSTS = {
    "github": "GitHub",
    "hub": "the Hub",
    "watch": "watching",
    "page": "this page",
    "cli": "the command line",
}
VERBS = {"merge": "Merge", "plan": "Plan", "doctor": "Examination"}
DONE = {"merge": "Not published", "plan": "Planned", "doctor": "Examined"}
DOING = {
    "queued": "Waiting for its turn",
    "planning": "Planning",
    "fetching": "Fetching adapter and base",
    "merging": "Merging",
    "validating": "Checking the merged model",
    "publishing": "Publishing",
}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A stage in the chain of a job."""

    name: str
    state: Literal["done", "now", "next", "stopped"]


def moment(at: float) -> str:
    """`2026-11-21T21:40:12Z`, for machines."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def absolute(at: float) -> str:
    """`21 Nov 2026, 21:40:12 UTC`."""
    found = datetime.fromtimestamp(at, UTC)
    return f"{found.day} {found:%b %Y, %H:%M:%S} UTC"


def ago(at: float, now: float) -> str:
    """`just now`, `3 min ago`, `2 h ago`, `5 days ago`; the page's script says the same."""
    seconds = now - at
    if seconds < 45:
        return "just now"
    if seconds < 90 * 60:
        return f"{max(1, round(seconds / 60))} min ago"
    if seconds < 36 * 3600:
        return f"{round(seconds / 3600)} h ago"
    return f"{round(seconds / 86400)} days ago"


def took(entry: Entry, now: float) -> str:
    """How long it has been worked on."""
    if entry.started is None:
        return ""
    return duration(max(0.0, (entry.ended or now) - entry.started))


def stands(entry: Entry) -> str:
    """How the job stands, in a word."""
    if entry.state == "skipped" and entry.outcome is not None:
        return "Stopped" if entry.outcome.failure else DONE[entry.order.job.verb]
    return STATES[entry.state]


def chain(entry: Entry) -> list[Step]:
    """The stages of the job, and how far it is."""
    names = STAGES[entry.order.job.verb]
    here = names.index(entry.now.stage) if entry.now.stage in names else 0
    if entry.state not in ACTIVE:
        whole = entry.state == "published" or (entry.outcome is not None and entry.outcome.failure is None)
        return [
            Step(name=name, state="done" if whole or i < here else "stopped" if i == here else "next")
            for i, name in enumerate(names)
        ]
    if entry.state == "queued":
        here = 0
    return [
        Step(name=name, state="done" if i < here else "now" if i == here else "next")
        for i, name in enumerate(names)
    ]


def percent(now: Now) -> int | None:
    """How far the stage is, never quite done before it is; None where nobody knows."""
    return min(99, max(0, 100 * now.done // now.total)) if now.total > 0 else None


def amount(now: Now) -> str:
    """`1.1/2.4 GB`."""
    return span(min(now.done, now.total), now.total)


def doing(entry: Entry) -> str:
    """What is being done, for those who hear it: without figures, which would be read out again and again."""
    if entry.state == "cancelling":
        return "Stopping"
    return DOING["queued"] if entry.state == "queued" else DOING[entry.now.stage]


def clean(text: object, longest: int = LONGEST_NAME) -> str:
    """A stranger's text on one line: no terminal's commands, nothing that turns the reading direction, no token."""
    seen = ANSI.sub("", masked(str(text)[: 4 * longest]))
    line = "".join(character if character.isprintable() else " " for character in seen).rstrip()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def log_line(line: Line, *, paths: bool) -> str:
    """The line as it is shown; `paths` of the machine are for its operator."""
    text = clean(line.text, LONGEST_LINE)
    return text if paths else no_paths(text)


def headline(job: Job, outcome: Outcome) -> str:
    """How it ended, in a sentence."""
    return clean(title(job, outcome), 400)


def link(url: str) -> str:
    """The address, if it is one of the web."""
    return url if re.match(r"https?://[^\s\"'<>]+\Z", url) else ""


def page_of(place: Pinned, endpoint: str) -> str:
    """Where it can be looked at; nothing for a folder."""
    return f"{endpoint}/{quote(place.location)}/tree/{quote(place.commit)}" if place.kind == "hub" else ""


def repairs(plan: Plan) -> list[tuple[str, str]]:
    """What was repaired in the adapter's configuration, and why."""
    return [(patch.key, patch.reason) for patch in plan.patches if not patch.inert]


FILTERS = {
    "moment": moment,
    "absolute": absolute,
    "ago": ago,
    "took": took,
    "stands": stands,
    "chain": chain,
    "percent": percent,
    "amount": amount,
    "doing": doing,
    "clean": clean,
    "headline": headline,
    "link": link,
    "page_of": page_of,
    "repairs": repairs,
    "duration": duration,
    "size": size,
    "peft_type": peft_type,
    "no_paths": no_paths,
}
NAMES = {"STATES": STATES, "HOSTS": HOSTS, "VERBS": VERBS, "ACTIVE": ACTIVE}
