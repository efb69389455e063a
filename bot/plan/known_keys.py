"""The keys of `adapter_config.json` by PEFT type, as PEFT 0.21 has them; a test compares with the installed one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

PEFT = 21  # the minor release that schema.json is made from


@dataclass(frozen=True)
class Key:
    """What JSON may hold under a key (`bool`, `int`, `list[str]`, …), and the minor release of PEFT that brought it."""

    kinds: frozenset[str]
    since: int


@cache
def schema(peft_type: str) -> dict[str, Key]:
    """The keys of a PEFT type; empty for a type that is not known."""
    if peft_type not in _tables() or not peft_type:
        return {}
    entries = {**_tables()[""], **_tables()[peft_type]}
    return {name: Key(frozenset(kinds.split()), since) for name, (kinds, since) in entries.items()}


def known_keys(peft_type: str) -> frozenset[str]:
    """The names of the keys of a PEFT type; empty for a type that is not known."""
    return frozenset(schema(peft_type))


def peft_types() -> frozenset[str]:
    """Every PEFT type that PEFT 0.21 has."""
    return frozenset(_tables()) - {""}


@cache
def _tables() -> dict[str, dict[str, tuple[str, int]]]:
    tables: dict[str, dict[str, tuple[str, int]]] = json.loads(
        resources.files("bot.plan").joinpath("schema.json").read_text()
    )
    return tables
