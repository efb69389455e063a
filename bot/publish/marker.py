"""The hidden line by which the bot knows its own results again: in a model card and in a Hub PR's first comment."""

from __future__ import annotations

import re

_KEY = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}"
_MARKER = re.compile(rf"<!-- adapter-merge-bot key=({_KEY}) -->")


def marker(key: str) -> str:
    """The hidden line for a plan's key. Raises ValueError for a key that could not be read back."""
    if not re.fullmatch(_KEY, key):
        raise ValueError(f"{key!r} cannot be the key of a plan")
    return f"<!-- adapter-merge-bot key={key} -->"


def find_marker(text: str) -> str | None:
    """The key of the first marker in a text; None when it has none."""
    found = _MARKER.search(text)
    return found[1] if found else None
