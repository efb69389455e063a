"""A stranger's JSON, read without ever raising: whatever is not of the documented kind is missing."""

from __future__ import annotations

import re
from typing import Any, TypeVar

T = TypeVar("T")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}", re.ASCII)
MARKED = "<!-- adapter-merge-bot"  # how everything that the bot writes begins


def at(data: Any, kind: type[T], *path: str) -> T | None:
    """What lies at a path of keys, if it is of that kind."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    if isinstance(data, bool) and kind is not bool:
        return None
    return data if isinstance(data, kind) else None


def text(data: Any, *path: str) -> str:
    """The text at a path of keys; empty where there is none."""
    return at(data, str, *path) or ""


def commit(data: Any, *path: str) -> str:
    """The commit at a path of keys; empty for what is none."""
    found = text(data, *path)
    return found if COMMIT.fullmatch(found) else ""
