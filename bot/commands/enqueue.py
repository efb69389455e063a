"""`merge-bot enqueue`: what `merge-bot run` does, done by the service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bot import options
from bot.commands import jobs, state


def _runner(_: click.Context, __: click.Parameter, text: str) -> str:
    from bot.commands import extra

    with extra.needed():
        from bot.config.kinds import runner
    try:
        return runner(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


@click.command(cls=options.Weighing)
@options.adapter
@options.several
@options.job
@options.validate("full")
@options.thorough
@options.questions
@options.to(required=True)
@options.reload
@click.option(
    "--runner",
    default="auto",
    show_default=True,
    callback=_runner,
    help="Where it is merged: auto (by the configuration), local, pool:QUEUE or hf-jobs.",
)
@jobs.common
def enqueue(*, file: Path | None, runner: str, **flags: Any) -> None:
    """Have the service do what `run` does with ADAPTER. Asked for again while it goes on, it is the same job."""
    request = options.request({**flags, "dry_run": False})
    with state.desk(file, create=True, verbosity=flags["verbose"]) as desk:
        from bot.doors.asked import job_key
        from bot.job import Job
        from bot.jobs.order import Order, Origin

        # The service's own tokens will be used, and whoever may write its database might use them anyway.
        named = [_absolute(name) for name in (request.adapter, *request.further)]
        asked = replace(
            request, adapter=named[0], further=tuple(named[1:]), attended=False, requester_access="yes"
        )
        key = job_key(asked, verb="merge", place="cli")
        job = Job(key=key, what=", ".join(flags["adapter"]), asked_by="", ask="")
        entry = desk.enqueue(Order(job=job, request=asked, origin=Origin(host="cli"), runner=runner))
    jobs.tell(entry, as_json=flags["json"])


def _absolute(name: str) -> str:
    """A folder by its full path: the service was started elsewhere."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name
