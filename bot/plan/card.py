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
LICENSE = re.compile(r"[\w][\w .+/:()-]{0,95}")


def read(files: Files) -> str | None:
    """The card's text, None when there is none or it is too large to be one."""
    size = files.sizes().get(CARD)
    return files.read(CARD).decode("utf-8", "replace") if size is not None and size <= MAX_BYTES else None


def metadata(text: str | None) -> dict[str, Any]:
    """The card's YAML front matter; empty when there is none or it cannot be parsed: cards are written by hand."""
    found = FRONT_MATTER.match(text or "")
    try:
        data = yaml.safe_load(found[1]) if found else None
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        OverflowError,
        RecursionError,
    ):  # tags with
        # values that are none of theirs: the library raises what it comes upon
        return {}
    return data if isinstance(data, dict) else {}


def licenses(text: str | None) -> tuple[str, ...]:
    """The identifiers of the licences that a card gives, and the name that it has for one beside `other`."""
    data = metadata(text)
    found = [v for key in ("license", "license_name") for v in _listed(data.get(key))]
    return tuple(
        dict.fromkeys(v.strip() for v in found if isinstance(v, str) and LICENSE.fullmatch(v.strip()))
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def names(text: str | None) -> list[str]:
    """Every base that a card names, each once."""
    value = metadata(text).get("base_model")
    return list(
        dict.fromkeys(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str) and v)
    )


def base_models(text: str | None, *, name: str) -> str | None:
    """The one base that a card names. Raises InputError when it names several: we do not guess."""
    found = names(text)
    if len(found) > 1:
        raise InputError(
            f"The model card of {name} names several base models: {', '.join(found)}.",
            advice="Choose one with --base; `merge-bot doctor` shows which of them fit by their shapes.",
            code="base-ambiguous",
        )
    return found[0] if found else None
