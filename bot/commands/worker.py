"""`merge-bot worker`: more hands for a service, on this machine or another."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import click

from bot import options
from bot.commands import extra, running
from bot.errors import InputError


@click.command()
@running.config
@click.option(
    "--queue",
    "queues",
    metavar="NAME",
    multiple=True,
    help="Only merge, and only what is for this queue; again for several. Without it: all that `serve` does.",
)
@running.health_port
@running.log
@options.verbose
def worker(
    *, file: Path | None, queues: tuple[str, ...], health_port: int | None, form: str, verbose: int
) -> int:
    """Do the jobs of a service that runs elsewhere: the same database, no webhooks, no pages."""
    with ExitStack() as stack:
        with extra.needed():
            from bot.jobs.inbox import Inbox
            from bot.serve import app as apps
            from bot.serve.run import run
        config, known = running.configured(file, form=form, verbose=verbose)
        for name in queues:
            if name not in config.worker.queues:
                raise InputError(
                    f"No merges are put into the queue {name}.",
                    advice="Add it to `queues` in [worker], in the configuration of the server as well.",
                    code="no-queue",
                )
        inner = running.inner_door(health_port, config.server.host, stack)
        database = running.database(config, stack)
        inbox = None
        if not queues:
            inbox = Inbox(database)
            stack.callback(inbox.close)
        staff = running.staff(config, known, database=database, inbox=inbox, pools=queues)
        service = running.service(config, database, staff=staff)
        running.told(f"merge-bot works as {staff.executor}", inner)
        doors = [(apps.inner(service), at) for at in inner]
        asyncio.run(run(service, doors, work=staff, seconds=config.server.drain_seconds))
    return 0
