"""Regular expressions in an adapter's config: which of them are none, and which took too long to match."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from bot.errors import RefusedError

# Fields that PEFT matches against names of modules: as one expression, as a list of names, or as the keys of a table.
FIELDS = (
    "target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern", "modules_to_save",
    "target_parameters",
)  # fmt: skip
REPETITION = re.compile(r"(?<!\\)[*+{]")
SHOWN = 60
# What PEFT puts around each before it is compiled. A list under `exclude_modules` is compared as names. Sources:
# peft.tuners.tuners_utils, check_target_module_exists; peft.utils.other, get_pattern_key.
AROUND = {
    "exclude_modules": "{}",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "rank_pattern": r"(.*\.)?({})$",
    "alpha_pattern": r"(.*\.)?({})$",
    "modules_to_save": r"(^|.*\.){}($|\..*)",
}
PLAIN = re.compile(r"[\w.]*", re.ASCII)  # names, of which there may be thousands
LONGEST, MOST = (
    5000,
    1000,
)  # characters, expressions: to compile them takes no second, here where no time-out is


def broken(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The fields with an expression that PEFT could not compile: field, expression, and why; one for each field."""
    for key, around in AROUND.items():
        value = config.get(key)
        if key == "exclude_modules" and not isinstance(value, str):
            continue
        odd = (e for e in _of(value) if not PLAIN.fullmatch(e) and len(e) <= LONGEST)
        found = ((e, why) for e in islice(odd, MOST) if (why := _fault(around.format(e))))
        yield from ((key, *each) for each in islice(found, 1))


def _fault(expression: str) -> str:
    try:
        re.compile(expression)
    except re.error as error:
        return error.msg
    except (RecursionError, OverflowError):
        return "it is too large"
    return ""


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
        yield from ((key, text) for text in _of(config.get(key)))


def _of(value: Any) -> Iterator[str]:
    each = [value] if isinstance(value, str) else value if isinstance(value, (list, dict)) else []
    yield from map(str, each)
