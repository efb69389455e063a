"""`merge-bot make`: what a job on a rented machine runs, in words that the service which started it understands."""

from __future__ import annotations

import json

import click

from bot import options
from bot.errors import InputError


@click.command()
@click.argument("request", metavar="REQUEST")
@click.option("--job", metavar="LABEL", help="Publish only once the job with this label is given the word.")
@click.option("--namespace", metavar="NAME", help="Who pays for the job; else the token's user.")
@options.verbose
def make(request: str, *, job: str | None, namespace: str | None, verbose: int) -> int:
    """Merge and publish as REQUEST says, a record in JSON, and tell of it in JSON lines: for a service's own jobs."""
    from bot.doors.work import work
    from bot.jobs.runners.spoken import Speaking
    from bot.jobs.runners.word import wait_for_word
    from bot.request import MergeRequest
    from bot.serial import from_dict
    from bot.terminal import session

    try:
        asked = from_dict(MergeRequest, json.loads(request))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"That is no request: {error}.",
            advice="`merge-bot run` is for people; this command is for the service.",
            code="usage",
        ) from error
    with session.tools(verbosity=verbose, plain=True) as tools:
        speaking, settings = Speaking(), tools["settings"]

        def gate() -> None:
            if job is not None:
                speaking.ask()
                wait_for_word(job, namespace=namespace, settings=settings)

        outcome = work("merge", lambda: asked, settings=settings, progress=speaking, gate=gate)
    speaking.outcome(outcome)
    return outcome.failure.exit_code if outcome.failure is not None else 0
