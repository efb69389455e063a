"""`merge-bot backup` and `merge-bot restore`: the service's state as one file."""

from __future__ import annotations

from pathlib import Path

import click

from bot.commands import jobs, state
from bot.terminal import session
from bot.wording import size

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("target", metavar="FILE", type=FILE)
@jobs.common
def backup(*, target: Path, file: Path | None, json: bool, verbose: int) -> None:
    """Write the service's state into FILE. The service may go on meanwhile."""
    with state.database(file, create=False, verbosity=verbose) as database:
        from bot.jobs import backup as saving

        written = saving.backup(database, target.absolute())
    _tell({"file": str(target), "bytes": written}, f"{target}: {size(written)}", as_json=json)


@click.command()
@click.argument("target", metavar="FILE", type=FILE)
@click.option("--force", is_flag=True, help="Also where the database holds jobs, which are lost.")
@jobs.common
def restore(*, target: Path, force: bool, file: Path | None, json: bool, verbose: int) -> None:
    """Put the state in FILE in place of the service's."""
    with state.database(file, create=True, verbosity=verbose) as database:
        from bot.jobs import backup as saving

        saving.restore(database, target.absolute(), force=force)
        place = database.place
    _tell({"database": place}, f"{place} is as it was in {target}.", as_json=json)


def _tell(document: dict[str, object], line: str, *, as_json: bool) -> None:
    from bot.terminal import view

    with session.reader_may_leave():
        if as_json:
            click.echo(session.document(document))
        else:
            view.show(view.line(line))
