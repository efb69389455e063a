"""`merge-bot jobs`: the service's jobs on the terminal, and what may be done with them there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot import options
from bot.commands import running, state
from bot.errors import InputError
from bot.serial import as_dict
from bot.terminal import session

if TYPE_CHECKING:
    from bot.jobs.desk import Desk
    from bot.jobs.order import Entry
    from bot.jobs.reading import Reader

# As in bot.jobs.order, which nobody should wait for who asks for help.
ACTIVE = ("queued", "running", "cancelling")
STATES = (*ACTIVE, "published", "refused", "skipped", "failed")
BY = "the command line"
PAUSE = 1.0  # seconds between two looks at a log
common = options.together(running.config, options.as_json, options.verbose)
id_ = click.argument("id_", metavar="ID")


@click.group()
def jobs() -> None:
    """Show the service's jobs, call them off, begin them anew.

    ID is a job's id, or its first eight digits or more.
    """


@jobs.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="Only these; again for each of several.",
)
@click.option("--text", default="", help="Only with this in adapter, base, destination or who asked.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many."
)
@common
def list_(  # the command's name is `list`
    *, states: tuple[Any, ...], text: str, limit: int, file: Path | None, json: bool, verbose: int
) -> None:
    """List jobs, the newest first."""
    from bot.terminal import jobs as told
    from bot.terminal import view

    with state.reader(file, verbosity=verbose) as reader:
        found = reader.entries(states=frozenset(states), text=text, limit=limit)
        counts = dict(reader.counts())
    with session.reader_may_leave():
        if json:
            click.echo(session.document({"jobs": [as_dict(entry) for entry in found], "counts": counts}))
        else:
            view.show(*told.listed(found, counts=counts, now=time.time()))


@jobs.command()
@id_
@common
def show(*, id_: str, file: Path | None, json: bool, verbose: int) -> None:
    """Show a job: how far it is, or how it ended, with plan and report."""
    with state.reader(file, verbosity=verbose) as reader:
        found = _there(reader.entry(id_), id_)
    tell(found, as_json=json)


@jobs.command()
@id_
@common
def cancel(*, id_: str, file: Path | None, json: bool, verbose: int) -> None:
    """Call a job off. One that has ended stays as it is."""
    _change(id_, lambda desk: desk.cancel(id_, by=BY), file=file, json=json, verbose=verbose)


@jobs.command()
@id_
@common
def retry(*, id_: str, file: Path | None, json: bool, verbose: int) -> None:
    """Begin an ended job anew. One that goes on stays as it is."""
    _change(id_, lambda desk: desk.retry(id_, by=BY), file=file, json=json, verbose=verbose)


@jobs.command()
@id_
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@common
def logs(*, id_: str, follow: bool, file: Path | None, json: bool, verbose: int) -> None:
    """Print a job's log."""
    if follow and json:
        raise click.UsageError("--json prints one document, and --follow has no end: choose one.")
    with state.reader(file, verbosity=verbose) as reader, session.reader_may_leave():
        key = _there(reader.entry(id_), id_).order.job.key
        if json:
            click.echo(session.document({"lines": [as_dict(line) for line in _lines(reader, key, after=0)]}))
            return
        after = _print(reader, key, after=0)
        while follow:
            follow = _there(reader.entry(key), key).state in ACTIVE  # before what it says last is read
            after = _print(reader, key, after=after)
            if follow:
                time.sleep(PAUSE)


def _change(
    id_: str, change: Callable[[Desk], Entry | None], *, file: Path | None, json: bool, verbose: int
) -> None:
    with state.desk(file, verbosity=verbose) as desk:
        found = _there(change(desk), id_)
    tell(found, as_json=json)


def tell(entry: Entry, *, as_json: bool) -> None:
    """A job on stdout, in one of its two forms."""
    from bot.terminal import jobs as told
    from bot.terminal import view

    with session.reader_may_leave():
        if as_json:
            click.echo(session.document(as_dict(entry)))
        else:
            view.show(*told.shown(entry, now=time.time()))


def _there(entry: Entry | None, id_: str) -> Entry:
    if entry is None:
        raise InputError(
            f"There is no job {id_}.",
            advice="See merge-bot jobs list; of an id, eight digits or more will do.",
            code="no-such-job",
        )
    return entry


def _lines(reader: Reader, key: str, *, after: int) -> list[Any]:
    found: list[Any] = []
    while page := reader.lines(key, after=found[-1].number if found else after):
        found += page
    return found


def _print(reader: Reader, key: str, *, after: int) -> int:
    """Prints what is new, and returns the number of the last line."""
    from bot.terminal.text import clean

    for line in _lines(reader, key, after=after):
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
        click.echo(f"{at}  {clean(line.text)}")
        after = line.number
    return after
