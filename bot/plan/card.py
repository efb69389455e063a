"""Reads the metadata at the head of a model card (README.md), as far as it can be read."""

from __future__ import annotations

import re
from typing import Any

import yaml

from bot.errors import InputError
from bot.weights.files import Files

CARD = "README.md"
FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)
MAX_BYTES = 2_000_000


def read(files: Files) -> str | None:
    """The card's text, None when there is none or it is too large to be one."""
    size = files.sizes().get(CARD)
    return files.read(CARD).decode("utf-8", "replace") if size is not None and size <= MAX_BYTES else None


def metadata(text: str | None) -> dict[str, Any]:
    """The card's YAML front matter; empty when there is none or it cannot be parsed: cards are written by hand."""
    found = FRONT_MATTER.match(text or "")
    try:
        data = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def base_models(text: str | None, *, name: str) -> str | None:
    """The one base that a card names. Raises InputError when it names several: we do not guess."""
    value = metadata(text).get("base_model")
    names = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str) and v]
    if len(set(names)) > 1:
        raise InputError(
            f"The model card of {name} names several base models: {', '.join(names)}.",
            advice="Choose one with --base.",
            code="base-ambiguous",
        )
    return names[0] if names else None
