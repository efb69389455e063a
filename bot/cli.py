"""The door: commands and their flags. The only room that knows click and exit codes of a process.

What a command does is in `bot.pipeline`, how it looks in `bot.terminal`. Everything heavy is imported inside
the commands, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot import __version__, options, size_options
from bot.commands.backup import backup, restore
from bot.commands.config import config
from bot.commands.enqueue import enqueue
from bot.commands.group import InOrder
from bot.commands.jobs import jobs
from bot.commands.make import make
from bot.commands.serve import serve
from bot.commands.watch import watch
from bot.commands.webhook import webhook
from bot.commands.worker import worker
from bot.errors import InputError, MergeError, RefusedError
from bot.serial import as_dict

if TYPE_CHECKING:
    from rich.console import ConsoleRenderable

    from bot.request import MergeRequest

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: the one place that catches."""
    from bot.terminal import session

    session.open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with session.sigterm_is_ctrl_c():
            return int(cli.main(given, prog_name="merge-bot", standalone_mode=False) or 0)
    except click.Abort:
        return _fail(KeyboardInterrupt(), given)
    except click.ClickException as error:
        return _fail(_wrong_usage(error), given)
    except (Exception, KeyboardInterrupt) as error:
        return _fail(error, given)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="merge-bot")
def cli() -> None:
    """Merge a PEFT adapter into its base model, check the result, and publish it.

    ADAPTER is a Hub id, owner/name, optionally with @revision and :subfolder, or a local folder. Several are merged
    with --stack, or with --combination and --weights.

    DEST is a folder (./x, ../x, /x, ~/x) or a Hub repository (owner/name), which is created if it is missing.
    """


@cli.command()
@options.doctor
def doctor(**flags: Any) -> int:
    """Say what is wrong with ADAPTER's config, and what its base is; repair it on request."""
    from bot.terminal import diagnosis, session, view

    verbose, as_json = flags.pop("verbose"), flags.pop("json")
    with session.tools(verbosity=verbose, plain=as_json) as tools:
        from bot import doctor as doctors

        found = doctors.doctor(flags.pop("adapter"), **flags, **tools)
    with session.reader_may_leave():
        if as_json:
            click.echo(session.document(as_dict(found)))
        else:
            view.show(*diagnosis.diagnosis(found))
    return RefusedError.exit_code if found.verdict == "refused" else 0


@cli.command(cls=options.Weighing)
@options.adapter
@options.several
@options.job
@options.validate("full")
@options.to(required=False)
@size_options.scratch_limit
@size_options.rates
@options.output
def plan(**flags: Any) -> None:
    """Show what a merge would do; download no weights."""
    from bot.terminal import view

    with _work(flags) as (request, tools):
        from bot import pipeline

        result = pipeline.plan(request, **tools)
    _answer(flags, as_dict(result), view.plan(result, rates=flags["rates"]))


@cli.command(cls=options.Weighing)
@options.adapter
@options.several
@click.option(
    "--out", metavar="DIR", required=True, type=click.Path(file_okay=False), help="Folder for the result."
)
@options.job
@options.validate("tensors")
@options.thorough
@options.questions
@options.output
def merge(**flags: Any) -> None:
    """Merge ADAPTER into its base, into a folder."""
    from bot.terminal import view

    with _work(flags) as (request, tools):
        from bot import pipeline

        planned, merged, report = pipeline.merge(request, **tools)
    done = view.merged(merged) if merged else view.line("The folder holds this merge already.")
    parts = [view.summary(planned), done]
    parts += [view.report(report)] if report else []
    _answer(flags, _document(plan=planned, merged=merged, report=report), *parts)


@cli.command(cls=options.Weighing)
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option(
    "--adapter",
    metavar="ADAPTER",
    required=True,
    multiple=True,
    help="The adapter that was merged; again for each of several.",
)
@options.several
@options.job
@options.validate("full", may_skip=False)
@options.thorough
@options.questions
@options.output
def validate(folder: Path, **flags: Any) -> None:
    """Check the merged model in DIR against its adapter and base."""
    from bot.terminal import view

    with _work(flags) as (request, tools):
        from bot import pipeline

        report = pipeline.validate(folder.resolve(), request, **tools)
    _answer(flags, as_dict(report), view.report(report))


@cli.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@options.page
def report(folder: Path, *, out: Path | None, show: bool, json: bool, verbose: int) -> None:
    """Make one page of the report of the merged model in DIR: pictures inside, readable without a network."""
    from bot.terminal import browser, session, view

    with session.tools(verbosity=verbose, plain=json):
        from bot import reporting

        page = reporting.as_page(folder.resolve(), out=out)
    opened = show and browser.opened(page)
    with session.reader_may_leave():
        if json:
            click.echo(session.document({"page": str(page), "opened": opened}))
        else:
            hint = " (no browser could be opened)" if show and not opened else ""
            view.show(view.line(f"{page}{hint}"))


@cli.command()
@click.argument("folder", metavar="DIR", type=FOLDER)
@options.to(required=True)
@options.reload
@options.output
def publish(folder: Path, **flags: Any) -> None:
    """Publish the merged and validated model in DIR."""
    from bot.terminal import view

    with _work(flags) as (request, tools):
        from bot import pipeline

        publication = pipeline.publish(folder.resolve(), request, **tools)
    _answer(flags, as_dict(publication), view.publication(publication))


@cli.command(cls=options.Weighing)
@options.adapter
@options.several
@options.job
@options.validate("full")
@options.thorough
@options.questions
@options.to(required=True)
@options.reload
@size_options.scratch_limit
@options.output
def run(**flags: Any) -> None:
    """Plan, merge, validate and publish ADAPTER: the whole way."""
    from bot.terminal import view

    with _work(flags) as (request, tools):
        from bot import pipeline

        planned, report, publication = pipeline.run(request, **tools)
    parts = [view.summary(planned)]
    parts += [view.report(report)] if report else []
    parts += [view.publication(publication)] if publication else []
    _answer(flags, _document(plan=planned, report=report, publication=publication), *parts)


@cli.command()
@options.verify
def verify(**flags: Any) -> None:
    """Check that MODEL, a published merge or a merged folder, is what its report and provenance say."""
    from bot.terminal import session, verification, view

    verbose, as_json = flags.pop("verbose"), flags.pop("json")
    with session.tools(verbosity=verbose, plain=as_json) as tools:
        from bot import verify as verifying

        found = verifying.verify(flags.pop("model"), **flags, **tools)
    with session.reader_may_leave():
        if as_json:
            click.echo(session.document(as_dict(found)))
        else:
            view.show(*verification.verification(found))


@cli.command()
@options.verbose
def action(verbose: int) -> int:
    """Do what an event on GitHub asks for: the step of the GitHub Action, which reads its environment."""
    from bot.terminal import session

    with session.tools(verbosity=verbose, plain=True) as tools:
        from bot import settings
        from bot.doors import action as door

        step = door.action(settings.workflow(), **tools)
    with session.reader_may_leave():
        for line in step.lines:
            click.echo(line)
    return step.code


for service in (config, serve, worker, watch, webhook, enqueue, jobs, backup, restore, make):
    cli.add_command(service)


@contextmanager
def _work(flags: dict[str, Any]) -> Iterator[tuple[MergeRequest, dict[str, Any]]]:
    """The request, and settings and progress for the stages."""
    from bot.terminal import session

    request = options.request(flags)
    with session.tools(verbosity=flags["verbose"], plain=flags["json"]) as tools:
        yield request, tools


def _document(**records: object) -> dict[str, Any]:
    return {name: None if record is None else as_dict(record) for name, record in records.items()}


def _answer(flags: dict[str, Any], data: dict[str, Any], *parts: ConsoleRenderable) -> None:
    """The result on stdout, in one of its two forms."""
    from bot.terminal import session, view

    with session.reader_may_leave():
        if flags["json"]:
            click.echo(session.document(data))
        else:
            view.show(*parts, *([view.line("Dry run: nothing was written.")] if flags["dry_run"] else []))


def _wrong_usage(error: click.ClickException) -> InputError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "merge-bot"
    return InputError(error.format_message(), advice=f"See {command} --help.", code="usage")


def _fail(error: BaseException, given: Sequence[str]) -> int:
    from bot.terminal import failure, session

    verbosity = sum(word.count("v") if word.strip("v") == "-" else word == "--verbose" for word in given)
    with suppress(MergeError), session.reader_may_leave():
        failure.tell(error, as_json="--json" in given, verbosity=verbosity)
    return failure.exit_code(error)
