"""Figures, values and names of the records as a reader wants them, the same on the terminal, in cards and in reports.

Plain text without any markup: escaping belongs to those who show it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from bot.records import ConfigEdit, Patch, Plan

_UNITS = ("B", "kB", "MB", "GB", "TB")
_PEFT_TYPES = {
    "LORA": "LoRA",
    "ADALORA": "AdaLoRA",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "IA3": "(IA)³",
    "VERA": "VeRA",
}
NOT_SET, REMOVED = "not set", "removed"
LONGEST = 120  # characters of a value
MOST_KEYS = 8


def size(count: float) -> str:
    """`2.4 GB`: decimal units, as the Hub shows them."""
    value, unit = _scaled(count)
    return f"{value} {unit}"


def span(done: float, total: float) -> str:
    """`1.1/2.4 GB` when both have one unit, else `900 MB/2.4 GB`."""
    (left, left_unit), (right, right_unit) = _scaled(done), _scaled(total)
    return f"{left}/{right} {right_unit}" if left_unit == right_unit else f"{size(done)}/{size(total)}"


def duration(seconds: float) -> str:
    """`40 ms`, `0.4 s`, `6 s`, `2 min 5 s`, `1 h 4 min`."""
    if seconds < 1:
        return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def counted(count: int, noun: str) -> str:
    """`1 tensor`, `1,204 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def few(names: list[str], *, most: int = 5) -> str:
    """The first names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def peft_type(name: str) -> str:
    """`LoRA` for `LORA`; types whose usual spelling we do not know stay as they are."""
    return _PEFT_TYPES.get(name, name)


def recipe(plan: Plan) -> str:
    """`combined by ties (density 0.5, signs by total)`, `stacked in this order`; nothing for one adapter."""
    found = plan.recipe
    if found is None:
        return ""
    if found.method == "stack":
        return "stacked: merged one after the other, in this order"
    more = (
        ("density", found.density),
        ("signs by", found.majority_sign_method),
        ("rank", found.svd_rank),
        ("seed", found.seed),
    )
    told = ", ".join(f"{name} {value}" for name, value in more if value is not None)
    return f"combined by {found.method}" + (f" ({told})" if told else "")


def weights(plan: Plan) -> list[str]:
    """`weight 0.7` for each adapter; nothing where there are no weights."""
    given = plan.recipe.weights if plan.recipe else ()
    return [f"weight {weight:.12g}" for weight in given] or [""] * len(plan.adapters)


def precision(plan: Plan) -> str:
    """`bfloat16`, or `as in the base (BF16)` with the dtypes of the changed tensors when none was asked for."""
    if plan.dtype != "auto":
        return plan.dtype
    rounded = ", rounded as PEFT's merge_and_unload does" if plan.parity == "peft" else ""
    return f"as in the base ({', '.join(sorted({b.dtype for b in plan.bindings}))}){rounded}"


def into(plan: Plan) -> str:
    """`its base model`, or what of a quantised one."""
    whose = "its" if plan.recipe is None else "the"
    if not plan.dequantized:
        return f"{whose} base model"
    return f"the dequantised weights of {whose} quantised base model ({plan.dequantized})"


def change(entry: Patch | ConfigEdit) -> tuple[str, str]:
    """What a key was and what it is now. A patch sees only keys that exist, an edit may bring a new one."""
    before = NOT_SET if isinstance(entry, ConfigEdit) and entry.before is None else _value(entry.before)
    return before, REMOVED if entry.after is None else _value(entry.after)


def inert(patches: Iterable[Patch]) -> Iterator[str]:
    """One line for all patches that took out a default that did nothing; none when there are none."""
    keys = [patch.key for patch in patches if patch.inert]
    if keys:
        more = f" and {len(keys) - MOST_KEYS:,} more" if len(keys) > MOST_KEYS else ""
        yield f"{counted(len(keys), 'inert default key')} removed: {', '.join(keys[:MOST_KEYS])}{more}"


def _value(value: Any) -> str:
    """The value as JSON has it, but for its doubled backslashes."""
    text = json.dumps(value, ensure_ascii=False, default=str).replace("\\\\", "\\")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _scaled(count: float) -> tuple[str, str]:
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    digits = 0 if unit == "B" or value >= 99.95 else 1
    return f"{value:,.{digits}f}", unit
