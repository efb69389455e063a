"""That nothing of the base's quantisation is left in a merge into its dequantised weights."""

from __future__ import annotations

import json
from pathlib import Path

from bot.records import Check, Plan
from bot.weights.layout import Layout
from bot.weights.quantised.method import KEY
from bot.weights.quantised.packed import first_packed


def check_dequantised(merged: Path, *, plan: Plan, layout: Layout) -> Check:
    """Checks `dequantised`. Its meaning says what the model is: adapter + dequantised weights, not the original."""
    problems = []
    if (odd := first_packed(layout.tensors)) is not None:
        problems.append(f"{odd} is {layout.tensors[odd].dtype}, a tensor of the quantised form.")
    try:
        config = json.loads((merged / "config.json").read_text(encoding="utf-8"))
        places = [config, *(value for value in config.values() if isinstance(value, dict))]
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        places = []
        problems.append(f"config.json cannot be read: {error}.")
    if any(KEY in place for place in places):
        problems.append(f"config.json still has {KEY}: loaders would take the weights for quantised ones.")
    good = (
        f"The base was quantised ({plan.dequantized}): this is the adapter on its dequantised weights,"
        " not on the full-precision model that they were made from. No quantised tensor is left."
    )
    return Check(
        name="dequantised",
        verdict="failed" if problems else "passed",
        figure=plan.dequantized,
        detail=" ".join(problems) or good,
    )
