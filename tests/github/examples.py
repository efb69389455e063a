"""Real webhook payloads, from the npm package @octokit/webhooks-examples (`npm ci` in this folder)."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PACKAGES = HERE / "node_modules"
EVENTS = ("issue_comment", "pull_request", "pull_request_review_comment")
NOT_INSTALLED = "the packages of tests/github are not installed (npm ci --prefix tests/github)"


@dataclass(frozen=True)
class Example:
    """One payload of an event."""

    event: str
    action: str
    payload: dict[str, Any]


def needs_npm(name: str) -> Path:
    """Where a package lies; skips the test that asks where it was not installed."""
    found = PACKAGES / name
    if not found.is_dir():
        pytest.skip(NOT_INSTALLED)
    return found


@cache
def examples(*events: str) -> tuple[Example, ...]:
    """Every payload of these events (default: those that the bot reads), in the package's order."""
    index = needs_npm("@octokit/webhooks-examples") / "api.github.com" / "index.json"
    listed = json.loads(index.read_text(encoding="utf-8"))
    wanted = events or EVENTS
    return tuple(
        Example(entry["name"], str(payload.get("action", "")), payload)
        for entry in listed
        if entry["name"] in wanted
        for payload in entry["examples"]
    )
