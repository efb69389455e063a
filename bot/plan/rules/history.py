"""What older releases of PEFT computed otherwise from the same config, and which release a config shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bot.plan.known_keys import schema
from bot.plan.rules.rule import Case, Change, Rule, Stop, short
from bot.plan.rules.values import as_number

RELEASE = re.compile(r"0\.(\d{1,4})|[1-9]")


def written_since(config: Mapping[str, Any], minor: int) -> bool:
    """Whether PEFT 0.`minor` or later has surely written the config: it says so, or has a key of such a release.

    PEFT writes down every key that it knows, whatever its value; its own release since 0.18.
    """
    said = RELEASE.match(str(config.get("peft_version")))
    if said is not None:
        return said[1] is None or int(said[1]) >= minor
    known = schema(str(config.get("peft_type")))
    keys = known.keys() & config.keys() - {"peft_version"}
    return any(known[key].since >= minor for key in keys)


def _lokr(case: Case) -> Iterator[Change | Stop]:
    config = case.config
    if case.peft_type != "LOKR" or written_since(config, 14):
        return
    alpha, rank = as_number(config.get("alpha", 8)), as_number(config.get("r", 8))
    if alpha == rank and not (config.get("alpha_pattern") or config.get("rank_pattern")):
        return  # a scale of one, which it is without it
    yield Stop(
        key="alpha",
        sentence=f"The LoKr adapter sets alpha to {short(config.get('alpha', 8))} and r to"
        f" {short(config.get('r', 8))}, and shows no sign of PEFT 0.14 or later: earlier ones passed over alpha.",
        advice="If it was trained with PEFT 0.13 or earlier, set alpha to r and leave out the patterns: that is what it"
        " was trained as. Otherwise set rank_dropout_scale to false.",
        code="peft-too-old",
    )


HISTORY = Rule(
    id="lokr-alpha",
    what="LoKr from before PEFT 0.14 with an alpha that is not r: refused",
    sees=_lokr,
    reason="its scale was one then, whatever alpha said",
    peft="before 0.14",
    reference="https://github.com/huggingface/peft/pull/2180",
)
