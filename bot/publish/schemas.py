"""The published JSON schemas of plan and report, in `bot/publish/schema/`, and what a file has against its own.

The files are made of the records by `make schema`; a test compares them.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from bot.publish.result import PLAN_FILE, REPORT_FILE
from bot.records import SCHEMA, Plan, Report
from bot.schema import faults, schema_of

RECORDS: dict[str, type] = {REPORT_FILE: Report, PLAN_FILE: Plan}


def made(name: str) -> dict[str, Any]:
    """The schema of `merge_report.json` or `merge_plan.json`, made of the record."""
    stem = name.removesuffix(".json")
    identifier = f"urn:adapter-merge-bot:schema:{stem.replace('_', '-')}:{SCHEMA}"
    return schema_of(RECORDS[name], identifier=identifier, version=SCHEMA)


def published(name: str) -> dict[str, Any]:
    """The same as it lies in the package."""
    file = resources.files("bot.publish") / "schema" / f"{name.removesuffix('.json')}.schema.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def against(document: Any, name: str) -> list[str]:
    """What the content of `merge_report.json` or `merge_plan.json` has against the schema; nothing when it fits."""
    return faults(document, published(name))
