"""The records that lie beside merged weights, the plan and the report: written last, read by later commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from bot.errors import InputError
from bot.records import Plan, Report
from bot.serial import from_dict, to_json

PLAN_FILE, REPORT_FILE, CARD_FILE = "merge_plan.json", "merge_report.json", "README.md"
PROVENANCE_FILE = "merge_provenance.json"
R = TypeVar("R", Plan, Report)


def read_plan(folder: Path) -> Plan:
    """The plan of a folder that this bot has merged. Raises InputError when it is none."""
    found = _read(folder / PLAN_FILE, Plan)
    if found is None:
        raise InputError(
            f"{folder} holds no {PLAN_FILE}, so this bot did not merge it.",
            advice="Merge into it with `merge-bot merge ADAPTER --out DIR` first.",
            code="not-a-result",
        )
    return found


def read_report(folder: Path) -> Report | None:
    """The report of a merged folder, None when it was not checked. Raises InputError when it is broken."""
    return _read(folder / REPORT_FILE, Report)


def write(path: Path, text: str) -> None:
    """Writes a text file, in UTF-8, with a newline at its end."""
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def write_record(path: Path, record: Plan | Report) -> None:
    """Writes a record as JSON."""
    write(path, to_json(record))


def _read(path: Path, kind: type[R]) -> R | None:
    try:
        data: Any = json.loads(path.read_text("utf-8"))
        return from_dict(kind, data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as a {kind.__name__.lower()} of this bot.",
            advice="Merge again into another folder.",
            code="not-a-result",
        ) from error
