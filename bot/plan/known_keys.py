"""The keys of `adapter_config.json` by PEFT type, as PEFT 0.21 has them; a test compares with the installed one."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources


@cache
def known_keys(peft_type: str) -> frozenset[str]:
    """The keys of a PEFT type; empty for a type that is not known."""
    tables: dict[str, list[str]] = json.loads(
        resources.files("bot.plan").joinpath("known_keys.json").read_text()
    )
    return frozenset(tables[""] + tables[peft_type]) if tables.get(peft_type) is not None else frozenset()
