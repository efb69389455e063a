"""Regular expressions in an adapter's config: which of them took too long to match."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bot.errors import RefusedError

# Fields that PEFT matches against names of modules: as one expression, as a list of names, or as the keys of a table.
FIELDS = (
    "target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save",
    "target_parameters",
)  # fmt: skip
REPETITION = re.compile(r"(?<!\\)[*+{]")
SHOWN = 60


def too_long(config: Mapping[str, Any], *, seconds: float) -> RefusedError:
    """The refusal of an adapter whose modules were not found in time; it names the expression that is to blame."""
    suspects = [(key, text) for key, text in _expressions(config) if REPETITION.search(text)]
    if not suspects:
        return RefusedError(
            f"The adapter's modules were not found in the base within {seconds:g} seconds.",
            advice="If base and adapter are that large, set MERGE_BOT_PLAN_TIMEOUT to more seconds.",
            code="plan-timeout",
        )
    key, text = max(suspects, key=lambda each: len(REPETITION.findall(each[1])))
    shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return RefusedError(
        f"{key} of adapter_config.json holds a regular expression that did not end within {seconds:g} seconds:"
        f" {shown!r}.",
        advice=f"Write {key} with plain names of modules.",
        code=f"regex-timeout-{key}",
    )


def _expressions(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in FIELDS:
        value = config.get(key)
        each = [value] if isinstance(value, str) else value if isinstance(value, (list, dict)) else []
        yield from ((key, str(text)) for text in each)
