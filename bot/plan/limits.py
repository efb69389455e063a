"""How large adapter, base and result may be: figures from headers and the Hub's API against the operator's limits."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bot.errors import RefusedError
from bot.records import Estimate
from bot.terms import VARIABLES, Limits
from bot.weights.header import TensorSpec
from bot.wording import size

DOWN = re.compile(r"\.lora_(embedding_)?A(\.|$)")  # the factor whose first dimension is the rank


def check(limits: Limits, **figures: tuple[str, int]) -> None:
    """Raises RefusedError for the first figure above its limit. Each is what it belongs to, and the number."""
    for name, (what, value) in figures.items():
        most = getattr(limits, name)
        if most is not None and value > most:
            told, allowed = (
                (size(value), size(most)) if name.endswith("_bytes") else (f"{value:,}", f"{most:,}")
            )
            if told == allowed:  # rounded to the same
                told, allowed = f"{value:,} bytes", f"{most:,}"
            raise RefusedError(
                f"{what} {told}, and {VARIABLES[name]} allows {allowed}.",
                advice=f"Set {VARIABLES[name]} higher, or to `off`, if this merge is meant.",
                code=f"limit-{name.replace('_', '-')}",
            )


def check_adapter(
    limits: Limits, name: str, *, config: Mapping[str, Any], tensors: Iterable[TensorSpec]
) -> None:
    """Raises RefusedError for an adapter of more tensors or of a higher rank than is allowed."""
    specs = list(tensors)
    check(
        limits,
        tensors=(f"The tensors of {name} are", len(specs)),
        rank=(f"The rank of {name} is", largest_rank(config, specs)),
    )


def check_estimate(limits: Limits, estimate: Estimate) -> None:
    """Raises RefusedError for a merge that would write more, need more free disk, or cost more, than is allowed."""
    check(
        limits,
        cost=("The merge would cost", cost(limits, estimate)),
        output_bytes=("The merged model would have", estimate.output_bytes),
        disk_bytes=("The merge needs free disk of", estimate.disk_bytes),
    )


def cost(limits: Limits, estimate: Estimate) -> int:
    """What the merge costs, in the unit of `cost_per_gb`: fetching, reading and writing; 0 where that has no price."""
    moved = estimate.download_bytes + 2 * estimate.output_bytes  # the base is as large as the result
    return math.ceil(moved * (limits.cost_per_gb or 0) / 1e9)


def largest_rank(config: Mapping[str, Any], tensors: Iterable[TensorSpec]) -> int:
    """The largest rank that the config or a tensor of LoRA speaks of; 0 when there is none."""
    pattern = config.get("rank_pattern")
    said = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    named = [int(r) for r in said if isinstance(r, int | float) and not isinstance(r, bool) and abs(r) < 1e18]
    seen = [t.shape[0] for t in tensors if DOWN.search(t.name) and len(t.shape) >= 2]
    return max([0, *named, *seen])
