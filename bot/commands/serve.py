"""`merge-bot serve`: the whole service on one machine: webhooks, pages, and a worker."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event

import click

from bot import options
from bot.commands import extra, running
from bot.commands.listening import address, listen


@click.command()
@running.config
@click.option(
    "--host", metavar="ADDRESS", help="Where to listen; 127.0.0.1 by default, 0.0.0.0 is everywhere."
)
@click.option("--port", metavar="PORT", type=running.PORT, help="8000 by default; 0 takes a free one.")
@click.option("--no-worker", is_flag=True, help="Answer only: `merge-bot worker` elsewhere does the work.")
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
            from bot.commands import looking
            from bot.jobs.inbox import Inbox
            from bot.jobs.office import Office
            from bot.jobs.queues import Queues
            from bot.serve import app as apps
            from bot.serve.pages import routes, site
            from bot.serve.run import run
        config, known = running.configured(file, form=form, verbose=verbose)
        there = config.server
        door = stack.enter_context(listen(host or there.host, there.port if port is None else port))
        inner = running.inner_door(health_port, host or there.host, stack)
        database = running.database(config, stack)
        inbox, queues = Inbox(database), Queues(database)
        stack.callback(queues.close)
        stack.callback(inbox.close)
        queues.prepare({})
        staff = None if no_worker else running.staff(config, known, database=database, inbox=inbox)
        pages = site.of(config, endpoint=known.endpoint, public_url=address(door))
        service = replace(
            running.service(config, database, staff=staff),
            put=inbox.put_async,
            missed=(missed := Event()).set,
            routers=(routes.router(Office(database, queues), site=pages),),
            path=pages.path,
        )
        stack.enter_context(looking.beside(config, known, database=database, missed=missed))
        running.told(f"merge-bot listens at {address(door)}", inner)
        doors = [(apps.app(service), door), *((apps.inner(service), at) for at in inner)]
        asyncio.run(run(service, doors, work=staff, seconds=there.drain_seconds))
    return 0
