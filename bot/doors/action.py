"""`merge-bot action`: a step of a GitHub workflow. Reads event and inputs, answers, and leaves outputs and a page."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from bot import connect
from bot.doors import step
from bot.doors.github import answer
from bot.doors.ground import Answer, Ground
from bot.doors.work import broken, failed
from bot.errors import InputError, MergeBotError
from bot.job import Job, Outcome
from bot.progress import Progress
from bot.publish import comment as texts
from bot.publish.outcome_text import title
from bot.settings import Settings, Workflow
from bot.trigger import github, inputs
from bot.trigger.inputs import FailOn, Inputs

WORST = {"failed": 3, "refused": 2, "published": 1, "skipped": 0}
MOST_EVENT = 32 * 2**20  # bytes; GitHub caps payloads at 25 MB


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is left to do for whoever started the step: lines for GitHub's runner, and the exit code."""

    code: int
    lines: tuple[str, ...]


def action(workflow: Workflow, *, settings: Settings, progress: Progress) -> Step:
    """Does what the event asks for. The exit code is by `fail-on`; wrong inputs always fail.

    What is no MergeBotError passes through, once outputs and page tell of it.
    """
    folder = Path(mkdtemp(prefix="merge-bot-", dir=workflow.temporary))  # a job may have several such steps
    tell = partial(_told, workflow, folder=folder, endpoint=settings.endpoint)
    try:
        given = inputs.read(workflow.inputs)
    except InputError as error:
        return tell(_alone(failed(error)), fail_on="refused")
    try:
        ground = _ground(workflow, given, settings=settings, progress=progress, folder=folder)
        done = answer(_event(workflow), ground=ground)
    except MergeBotError as error:
        done = _alone(failed(error))
    except BaseException as error:
        for line in tell(_alone(broken(error)), fail_on=given.fail_on).lines:
            progress.say(line)
        raise
    return tell(done, fail_on=given.fail_on)


def _alone(outcome: Outcome) -> Answer:
    """An outcome without a job: something went wrong before there was one, or around it."""
    return Answer(results=((Job(key="", what=step.TITLE), outcome),))


def _event(workflow: Workflow) -> github.Event:
    payload: Any = {}
    path = workflow.event_path
    if path is not None:
        try:
            with path.open("rb") as file:
                payload = json.loads(file.read(MOST_EVENT))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"The event of this run cannot be read ({type(error).__name__}).",
                advice="Run the workflow again.",
                code="event-unreadable",
            ) from error
    found = github.event(workflow.event_name, payload, delivery=workflow.run)
    return replace(found, repository=found.repository or workflow.repository)


def _ground(
    workflow: Workflow, given: Inputs, *, settings: Settings, progress: Progress, folder: Path
) -> Ground:
    read, write = given.hf_read_token or given.hf_token, given.hf_write_token or given.hf_token
    known = replace(
        settings,
        read_token=read or settings.read_token,
        write_token=write or settings.write_token,
    )
    return Ground(
        settings=known,
        inputs=given,
        connect=partial(
            connect.forge,
            settings,
            repository=workflow.repository,
            token=given.github_token or workflow.token,
            api_url=workflow.api_url,
        ),
        progress=progress,
        run=workflow.run,
        url=workflow.url,
        folder=folder,
    )


def _told(workflow: Workflow, done: Answer, *, folder: Path, endpoint: str, fail_on: FailOn) -> Step:
    """Writes outputs, page and report."""
    results = done.results
    job, outcome = (
        max(results, key=lambda r: WORST[r[1].ended]) if results else (None, Outcome(ended="skipped"))
    )
    lines = []
    for one, how in results:
        report = step.write_report(how, folder=folder)
        _append(workflow, texts.summary(one, how, report=report, endpoint=endpoint))
        bad = how.ended in {"refused", "failed"}
        advice = f" {how.failure.advice}" if how.failure else ""
        lines.append(step.annotation("error" if bad else "notice", title(one, how) + advice))
    for note in done.notes:
        _append(workflow, texts.remark(note))
        lines.append(step.annotation("warning" if results else "notice", note))
    if workflow.output is not None:
        values = step.outputs(job, outcome, folder=folder)
        values["summary"] = values["summary"] or " ".join(done.notes)
        step.write_outputs(workflow.output, values)
    return Step(code=_exit_code(outcome, fail_on=fail_on), lines=tuple(lines))


def _append(workflow: Workflow, text: str) -> None:
    if workflow.step_summary is not None:
        step.append_page(workflow.step_summary, text)


def _exit_code(outcome: Outcome, *, fail_on: FailOn) -> int:
    failing = {"refused": {"refused", "failed"}, "validation": {"failed"}, "never": set[str]()}[fail_on]
    if outcome.ended not in failing:
        return 0
    return outcome.failure.exit_code if outcome.failure is not None else 3
