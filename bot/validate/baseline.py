"""The baseline: how far base + adapter, run in the merged model's dtype, is from itself in float32.

A figure to read the merged model's own distance by, and no limit: that is the reference rounded once, which is stricter
(`bot.validate.answers`), as here the arithmetic of every layer is rounded, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bot.evidence import Baseline
from bot.records import Plan
from bot.validate.answers import distance
from bot.validate.expected import output_dtype
from bot.validate.live import live_in
from bot.validate.prompts import answers
from bot.validate.questions import Questions
from bot.validate.quiet import sentence
from bot.weights.reader import TORCH_DTYPES

HALVES = {"BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Half:
    """What base + adapter answers in a dtype of 16 bits; nothing, and `why`, where it does not run."""

    dtype: str
    answers: list[Tensor] | None
    why: str = ""


def ask_in_half(
    plan: Plan, questions: Questions, *, base_folder: Path, merged: Path, adapter_folder: Path
) -> Half | None:
    """Loads and asks base + adapter in the merged weights' dtype; in half the memory of what must be gone by now.

    None where there is nothing to ask: weights in float32, or in several dtypes, and stacked adapters.
    """
    kinds = {output_dtype(plan, binding.dtype) for binding in plan.bindings} & HALVES.keys()
    if len(kinds) != 1 or plan.stages:
        return None
    [kind] = kinds
    where = {"base_folder": base_folder, "merged": merged, "adapter_folder": adapter_folder}
    try:
        model = live_in(TORCH_DTYPES[kind], plan, device=questions.device, **where)
        return Half(dtype=HALVES[kind], answers=answers(model, questions.rows, device=questions.device))
    except Exception as error:  # noqa: BLE001  # kernels that a device lacks for a dtype: no fault of a merge
        return Half(dtype=HALVES[kind], answers=None, why=sentence(error))


def beside(half: Half | None, *, live: list[Tensor]) -> str:
    """The baseline in words; nothing where there is none."""
    if half is None:
        return ""
    if half.answers is None:
        return f"no baseline in {half.dtype} ({half.why})"
    return f"base + adapter in {half.dtype} is {distance(half.answers, live).worst:.2g} from itself"


def baseline(half: Half | None, *, live: list[Tensor], merged: list[Tensor]) -> Baseline | None:
    """The baseline, and the merged model's own distance."""
    if half is None or half.answers is None:
        return None
    own, mine = distance(half.answers, live), distance(merged, live)
    return Baseline(
        dtype=half.dtype,
        worst=_number(own.worst),
        mean=_number(own.mean),
        merged_worst=_number(mine.worst),
        merged_mean=_number(mine.mean),
    )


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
