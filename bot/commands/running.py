"""What commands that stay share: flags, the configuration, the database. What they run is in `serve` and `jobs`."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot.errors import InputError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from bot.config.models import Config
    from bot.jobs.database import Database

PORT = click.IntRange(0, 65535)
FILE = Path("merge-bot.toml")
config = click.option(
    "--config",
    "file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration; by default merge-bot.toml, where there is one.",
)
health_port = click.option(
    "--health-port",
    metavar="PORT",
    type=PORT,
    help="Health and metrics at this port, too, without a token: for one that strangers do not reach.",
)
log = click.option(
    "--log",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="The log on stderr: lines for people, or a JSON object a line.",
)


def configured(file: Path | None, *, form: str, verbose: int) -> Config:
    """The configuration, with the log begun. Raises InputError for what is wrong in it."""
    from bot import log as logs
    from bot import settings
    from bot.config.load import load

    found = load(file or (FILE if FILE.exists() else None), settings.environment())
    settings.steer_numpy()
    logs.start("json" if form == "json" else "text", level=logging.DEBUG if verbose > 1 else logging.INFO)
    return found


def database(config: Config, stack: ExitStack) -> Database:
    """The database, made where there is none; closed with the stack."""
    from bot.jobs.migration import opened

    folder(config.server.state)
    made = opened(config.database)
    stack.callback(made.close)
    return made


def scratch(config: Config) -> Path:
    """The folder for unfinished work, which is there."""
    return folder(config.worker.scratch or config.server.state / "scratch")


def folder(path: Path) -> Path:
    """The folder, made for this user alone where it is missing. Raises InputError where it cannot be."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {path} cannot be made: {error.strerror}.",
            advice="Set `state` in [server], or `scratch` in [worker], to a folder that this user may write to.",
            code="no-state-folder",
        ) from error
    return path


def secret(given: SecretStr | None) -> str:
    """The secret itself; empty where there is none."""
    return "" if given is None else given.get_secret_value()
