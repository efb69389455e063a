"""What a rule is: it looks at a config, and at the headers of the weights if they are there, and names changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bot.plan.rules.evidence import Evidence

Config = dict[str, Any]
REMOVED: Any = None  # what a patch's `after` says of a key that is gone


@dataclass(frozen=True)
class Case:
    """The config as far as earlier rules have repaired it; `weights` is None when there are none to look at."""

    config: Config
    weights: Evidence | None = None

    @property
    def peft_type(self) -> str:
        """The PEFT type as a word; "None" when there is none."""
        return str(self.config.get("peft_type"))


@dataclass(frozen=True, kw_only=True)
class Change:
    """A repair: the key gets the value `after`, or goes (`REMOVED`). `inert`: the value was a default."""

    key: str
    after: Any = REMOVED
    reason: str = ""
    inert: bool = False


@dataclass(frozen=True, kw_only=True)
class Stop:
    """What cannot be repaired: why, what to do about it, and the code of the refusal."""

    key: str
    sentence: str
    advice: str
    code: str = "config-value"


Sees = Callable[[Case], Iterator[Change | Stop]]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row of the table.

    `sees` yields what the rule changes or refuses, for the reason given unless it has a better one. `peft`: which
    releases of PEFT it is about. `reference`: where that can be read.
    """

    id: str
    what: str
    sees: Sees
    reason: str
    peft: str
    reference: str


def short(value: Any) -> str:
    """The value for a sentence."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "…"
