"""`merge-bot config`: explains the mistakes of a `merge-bot.toml`, says what is in force, and prints an example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot import options
from bot.commands import extra
from bot.errors import InputError
from bot.terminal import session

if TYPE_CHECKING:
    from bot.config.load import Checked

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def config() -> None:
    """Check the service's configuration, or print an example."""


@config.command()
@click.argument("file", type=FILE, default="merge-bot.toml")
@click.option("--for", "repository", metavar="OWNER/NAME", help="Say what applies to this repository.")
@click.option("--own", metavar="FILE", type=FILE, help="With --for: a merge-bot.yml that the repository has.")
@options.as_json
@options.verbose
def check(*, file: Path, repository: str | None, own: Path | None, json: bool, verbose: int) -> int:
    """Say what is wrong in FILE (merge-bot.toml by default), and what is in force."""
    if own and repository is None:
        raise click.UsageError("--own says something about --for, which is missing.")
    with session.tools(verbosity=verbose, plain=json):
        with extra.needed():
            from bot import settings
            from bot.config import load
        checked = load.check(file, settings.environment())
        told = dict(_told(checked, repository=repository, own=own)) if not checked.mistakes else {}
    with session.reader_may_leave():
        if json:
            click.echo(session.document(_document(checked, told)))
        else:
            click.echo("\n".join(_lines(file, checked, told)))
    return InputError.exit_code if checked.mistakes else 0


@config.command()
@options.verbose
def example(verbose: int) -> None:  # noqa: ARG001 - every command takes it
    """Print an example with comments."""
    with session.reader_may_leave():
        click.echo(
            resources.files("bot.config").joinpath("example.toml").read_text(encoding="utf-8"), nl=False
        )


def _told(checked: Checked, *, repository: str | None, own: Path | None) -> Iterable[tuple[str, str]]:
    """What is in force: in all, or for one repository. Raises InputError for a merge-bot.yml that is wrong."""
    from bot.config import rules, words
    from bot.plan.destination import is_repo_id

    if checked.config is None:
        return []
    if repository is None:
        return words.in_force(checked.config)
    if not is_repo_id(repository):
        raise InputError(f"{repository!r} is no repository.", advice="Write owner/name.", code="usage")
    found = rules.rules_for(checked.config, repository, _read(own) if own else None)
    return words.of_rules(found, example=found.to(base="acme/base") if found else None)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{file} cannot be read: {error.strerror}.",
            advice="Name a merge-bot.yml.",
            code="file-unreadable",
        ) from error


def _lines(file: Path, checked: Checked, told: dict[str, str]) -> Iterator[str]:
    for mistake in checked.mistakes:
        where = ", ".join(part for part in (str(file), mistake.place) if part) if not mistake.variable else ""
        yield f"{where or mistake.variable}: {mistake.sentence} {mistake.advice}"
    if not checked.mistakes:
        yield f"{file} is right."
    yield from (f"Note: {remark}" for remark in checked.remarks)
    width = max((len(name) for name in told), default=0)
    yield from (f"  {name:<{width}}  {value}" for name, value in told.items())


def _document(checked: Checked, told: dict[str, str]) -> dict[str, Any]:
    mistakes = [
        {"key": m.key, "line": m.line, "variable": m.variable, "sentence": m.sentence, "advice": m.advice}
        for m in checked.mistakes
    ]
    return {"mistakes": mistakes, "remarks": list(checked.remarks), "in_force": told}
