"""`merge-bot serve`: the whole service on one machine: webhooks, pages, and a worker."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot import options
from bot.commands import extra, running
from bot.commands.listening import address, listen

if TYPE_CHECKING:
    from bot.config.models import Config
    from bot.jobs.database import Database
    from bot.serve.service import Limits, Service


@click.command()
@running.config
@click.option(
    "--host", metavar="ADDRESS", help="Where to listen; 127.0.0.1 by default, 0.0.0.0 is everywhere."
)
@click.option("--port", metavar="PORT", type=running.PORT, help="8000 by default; 0 takes a free one.")
@click.option("--no-worker", is_flag=True, help="Answer only; workers on other machines merge.")
@running.health_port
@running.log
@options.verbose
def serve(
    *,
    file: Path | None,
    host: str | None,
    port: int | None,
    no_worker: bool,
    health_port: int | None,
    form: str,
    verbose: int,
) -> int:
    """Run the bot as a service: webhooks, status page, durable jobs, and one worker."""
    with ExitStack() as stack:
        with extra.needed():
            from bot.serve import app as apps
            from bot.serve.run import run
        config = running.configured(file, form=form, verbose=verbose)
        there = config.server
        door = stack.enter_context(listen(host or there.host, there.port if port is None else port))
        inner = None if health_port is None else stack.enter_context(listen(host or there.host, health_port))
        database = running.database(config, stack)
        service = _service(config, database, stack)
        doors = [(apps.app(service), door)]
        if inner is not None:
            doors.append((apps.inner(service), inner))
        click.echo(f"merge-bot listens at {address(door)}")
        if inner is not None:
            click.echo(f"Health and metrics alone are at {address(inner)}")
        asyncio.run(run(service, doors, work=None, seconds=there.drain_seconds))
    return 0


def _service(config: Config, database: Database, stack: ExitStack) -> Service:
    """The HTTP side as the configuration has it."""
    from bot.jobs.inbox import Inbox
    from bot.serve import checks, stored
    from bot.serve.service import Service

    inbox = Inbox(database)
    stack.callback(inbox.close)
    return Service(
        put=inbox.put_async,
        hub_secret=running.secret(config.hub.webhook_secret),
        github_secret=running.secret(config.github.webhook_secret),
        metrics_token=running.secret(config.server.metrics_token),
        checks={"database": checks.database(database), "scratch": checks.writable(running.scratch(config))},
        collect=lambda: stored.collect(database),
        limits=_limits(config),
    )


def _limits(config: Config) -> Limits:
    from bot.serve.service import Limits

    there = config.server
    given = Limits(connections=there.connections, patience=there.request_seconds)
    body = there.request_bytes or given.body
    return replace(given, body=body, bodies=max(given.bodies, 2 * body))
