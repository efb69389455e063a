"""The service's jobs as a person reads them on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import ConsoleRenderable
from rich.table import Table
from rich.text import Text

from bot.terminal import diagnosis, view
from bot.terminal.text import Wrapped, clean
from bot.wording import counted, duration

if TYPE_CHECKING:
    from bot.job import Outcome
    from bot.jobs.order import Entry

DIGITS = 12  # of an id: enough to tell it from all others
STYLES = {
    "published": "green",
    "failed": "bold red",
    "refused": "yellow",
    "running": "cyan",
    "cancelling": "cyan",
}
STEP = {"queued": "waits"}  # all other stages are their own words


def listed(entries: Sequence[Entry], *, counts: Mapping[Any, int], now: float) -> Iterator[ConsoleRenderable]:
    """A table of jobs, and how many there are in all."""
    if entries:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in ("Id", "State", "Adapter", "To", "Asked by", "Age", "Took"):
            table.add_column(heading, no_wrap=heading in {"Id", "State", "Age", "Took"})
        for entry in entries:
            table.add_row(*_row(entry, now=now))
        yield table
    told = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    yield view.line(f"{counted(sum(counts.values()), 'job')}{f': {told}' if told else ''}")


def shown(entry: Entry, *, now: float) -> Iterator[ConsoleRenderable]:
    """One job: who wants what, how far it is, how it ended."""
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column()
    for label, value in _facts(entry, now=now):
        if value:
            rows.add_row(Text(label), Wrapped(value))
    yield rows
    if entry.outcome:
        yield from _outcome(entry.outcome)


def _row(entry: Entry, *, now: float) -> Iterator[Text | Wrapped]:
    job, request = entry.order.job, entry.order.request
    yield Text(clean(job.key[:DIGITS]))
    yield Text(_state(entry), style=STYLES.get(entry.state, ""))
    yield Wrapped(job.what)
    yield Wrapped(request.destination.location if request.destination else "")
    yield Wrapped(job.asked_by or entry.order.origin.host)
    yield Text(duration(max(0.0, now - entry.created)))
    yield Text(_took(entry, now=now))


def _facts(entry: Entry, *, now: float) -> Iterator[tuple[str, str]]:
    job, request, origin = entry.order.job, entry.order.request, entry.order.origin
    number = f" #{origin.number}" if origin.number else ""
    attempt = f", attempt {entry.attempt}" if entry.attempt > 1 else ""
    yield "Job", job.key
    yield "State", f"{_state(entry)}{attempt}"
    yield "Adapter", job.what
    yield "Base", request.base or ""
    yield "To", request.destination.location if request.destination else ""
    yield (
        "Asked",
        " ".join(part for part in (job.asked_by, f"({origin.host})", origin.repository) if part) + number,
    )
    yield "Command", job.ask
    yield "Runner", entry.runner or entry.order.runner
    yield "Worker", entry.worker
    yield "Created", time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(entry.created))
    yield "Took", _took(entry, now=now)


def _outcome(outcome: Outcome) -> Iterator[ConsoleRenderable]:
    if outcome.plan:
        yield view.summary(outcome.plan)
    if outcome.report:
        yield view.report(outcome.report)
    if outcome.diagnosis:
        yield from diagnosis.diagnosis(outcome.diagnosis)
    if outcome.publication:
        yield view.publication(outcome.publication)
    if outcome.failure:
        yield view.line(f"{outcome.failure.sentence} {outcome.failure.advice} ({outcome.failure.code})")


def _state(entry: Entry) -> str:
    """`running: merging, 40 %`."""
    if entry.state != "running":
        return entry.state
    part = f", {100 * entry.now.done // entry.now.total} %" if entry.now.total else ""
    return f"running: {STEP.get(entry.now.stage, entry.now.stage)}{part}"


def _took(entry: Entry, *, now: float) -> str:
    if entry.started is None:
        return ""
    return duration(max(0.0, (now if entry.ended is None else entry.ended) - entry.started))
