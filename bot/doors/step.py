"""What a workflow's step leaves behind: its outputs, the page of the run, and the report as files."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from bot import reporting
from bot.job import Job, Outcome
from bot.publish.outcome_text import title
from bot.publish.result import PLAN_FILE, REPORT_FILE, TEXT_FILE
from bot.publish.shareable import shareable
from bot.records import Plan
from bot.secret_text import masked
from bot.serial import as_dict, to_json
from bot.trigger.inputs import OUTPUTS

LONGEST_PLAN = (
    100_000  # characters: an output mostly becomes a variable, and Linux takes 131,072 bytes of one
)
LISTS = ("bindings", "added", "renamed", "dropped", "stages", "config_edits", "patches", "sidecars", "shards")
TITLE = "adapter-merge-bot"
LONGEST_LINE = 4000
PICTURE = re.compile(r"^!\[.*\]\(merge_report/.*\)\n+|^## Pictures\n+", re.MULTILINE)
LONGEST_PAGE = 900_000  # GitHub shows a megabyte


def outputs(job: Job | None, outcome: Outcome, *, folder: Path) -> dict[str, str]:
    """Every output of the step; empty where there is nothing to say."""
    plan, publication = outcome.plan, outcome.publication
    on_hub = publication is not None and publication.destination.kind != "folder"
    found = dict.fromkeys(OUTPUTS, "") | {"outcome": outcome.ended}
    if job is not None:
        found["summary"] = title(job, outcome)
    if publication is not None and on_hub:
        found |= {"repository": publication.destination.location, "commit": publication.commit or ""}
        found["pull-request-url"] = publication.url if publication.destination.kind == "hub_pr" else ""
    if plan is not None:
        found |= {"adapter-commit": plan.adapter.commit, "base-commit": plan.base.commit}
        found["plan"] = compact(shareable(plan, plan=plan))
    if outcome.report is not None and plan is not None:
        found["report"] = str(folder / TEXT_FILE)
    return {name: masked(text) for name, text in found.items()}


def write_outputs(file: Path, values: Mapping[str, str]) -> None:
    """Appends them as GitHub reads them: each between two lines that no value can hold, for they are made up anew."""
    lines = []
    for name, value in values.items():
        delimiter = f"end_{secrets.token_hex(16)}"
        while delimiter in value:
            delimiter = f"end_{secrets.token_hex(16)}"
        lines.append(f"{name}<<{delimiter}\n{value}\n{delimiter}\n")
    with file.open("a", encoding="utf-8") as stream:
        stream.write("".join(lines))


def write_report(outcome: Outcome, *, folder: Path) -> str:
    """Puts report and plan below the folder, and gives the report's text without pictures."""
    plan, report = outcome.plan, outcome.report
    if plan is None:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN_FILE).write_text(to_json(shareable(plan, plan=plan)) + "\n", encoding="utf-8")
    if report is None:
        return ""
    (folder / REPORT_FILE).write_text(to_json(shareable(report, plan=plan)) + "\n", encoding="utf-8")
    for path, content in reporting.files(plan, report).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    text = (folder / TEXT_FILE).read_text(encoding="utf-8")
    return PICTURE.sub("", text)  # they lie where the page cannot show them


def append_page(file: Path, text: str) -> None:
    """Adds to the page that GitHub shows of the run."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(masked(text)[:LONGEST_PAGE] + "\n")


def compact(plan: Plan) -> str:
    """The plan as one line of JSON; without its lists where they are very long, which `shortened` tells."""
    data = as_dict(plan)
    text = json.dumps(data, separators=(",", ":"))
    if len(text) <= LONGEST_PLAN:
        return text
    short = {key: type(value)() if key in LISTS else value for key, value in data.items()}
    text = json.dumps({**short, "shortened": True}, separators=(",", ":"))
    return text if len(text) <= LONGEST_PLAN else json.dumps({"key": plan.key, "shortened": True})


def annotation(kind: Literal["error", "warning", "notice"], text: str) -> str:
    """A line that GitHub's runner shows beside the run, whatever the text is.

    https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
    """
    line = "".join(c if c.isprintable() else " " for c in masked(text))[:LONGEST_LINE]
    return f"::{kind} title={TITLE}::{line.replace('%', '%25')}"
