"""What commands that stay share: flags, the configuration, the database. What they run is in `serve` and `jobs`."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot.commands.listening import address, listen
from bot.errors import InputError
from bot.terminal import session

if TYPE_CHECKING:
    from socket import socket

    from pydantic import SecretStr

    from bot.config.models import Config
    from bot.jobs.database import Database
    from bot.jobs.inbox import Inbox
    from bot.jobs.staff import Staff
    from bot.serve.service import Service
    from bot.settings import Settings

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


def configured(file: Path | None, *, form: str, verbose: int) -> tuple[Config, Settings]:
    """Configuration and settings, with the log begun. Raises InputError for what is wrong in them."""
    from bot import log as logs
    from bot import settings
    from bot.config.load import load

    found = load(file or (FILE if FILE.exists() else None), settings.environment())
    settings.steer_numpy()
    logs.start("json" if form == "json" else "text", level=logging.DEBUG if verbose > 1 else logging.INFO)
    return found, session.known(verbosity=verbose)


def inner_door(port: int | None, host: str, stack: ExitStack) -> list[socket]:
    """Where health and metrics alone are to be found, if anywhere."""
    if port is None:
        return []
    return [stack.enter_context(listen(host, port))]


def told(where: str, inner: list[socket]) -> None:
    """Says on stdout what can be reached where."""
    lines = [where, *(f"Health and metrics alone are at {address(at)}" for at in inner)]
    click.echo("\n".join(lines))


def staff(
    config: Config,
    settings: Settings,
    *,
    database: Database,
    inbox: Inbox | None,
    pools: Sequence[str] = (),
) -> Staff:
    """Who works in this process. Where others have taken its jobs over, it ends as by SIGTERM."""
    from bot.jobs.staff import Staff

    def lost() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    return Staff(config, settings, database=database, lost=lost, inbox=inbox, pools=pools)


def service(config: Config, database: Database, *, staff: Staff | None) -> Service:
    """What the HTTP side has in every process; where to put deliveries and which pages there are is left open."""
    from bot.serve import checks, stored
    from bot.serve.metrics import Metrics
    from bot.serve.service import Limits, Service

    there, given, metrics = config.server, Limits(), Metrics()
    if staff is not None:
        metrics.registry.register(staff.figures)
    body = there.request_bytes or given.body
    return Service(
        hub_secret=secret(config.hub.webhook_secret),
        github_secret=secret(config.github.webhook_secret),
        metrics_token=secret(there.metrics_token),
        checks={"database": checks.database(database), "scratch": checks.writable(scratch(config))},
        collect=lambda: stored.collect(database),
        metrics=metrics,
        limits=Limits(
            connections=there.connections,
            patience=there.request_seconds,
            body=body,
            bodies=max(given.bodies, 2 * body),
        ),
    )


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
