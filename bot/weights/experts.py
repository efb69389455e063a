"""LoRA on stacked experts as older PEFTs stored it: the input's factor where the output's belongs.

PEFT before 0.19.1 took the axes of (experts, out, in) weights for (experts, in, out); 0.19.0 did so with the transposed
ones as well. Both describe the same product, so this is a rearrangement and exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch


def rearranged(tensors: Mapping[str, torch.Tensor], *, experts: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """The tensors with those pairs as PEFT stores them today. `experts`: name of A → number of experts.

    A: (experts · rank, out) and B: (in, rank · experts) become A: (experts · rank, in) and B: (out, rank · experts).
    """
    found = dict(tensors)
    for first, count in experts.items():
        second = partner(first)
        a, b = tensors[first], tensors[second]
        rank = a.shape[0] // count
        found[first] = b.reshape(-1, rank, count).permute(2, 1, 0).reshape(count * rank, -1).contiguous()
        found[second] = a.reshape(count, rank, -1).permute(2, 1, 0).reshape(-1, rank * count).contiguous()
    return found


def partner(first: str) -> str:
    """The name of B beside that of A."""
    return first.removesuffix("lora_A.weight") + "lora_B.weight"
