"""How much memory the comparison of answers needs, and how much there is."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from bot.records import Plan
from bot.weights.header import FLOATS
from bot.weights.layout import Layout
from bot.weights.memory import available

SPARE = 300 * 2**20  # tokenizer, activations and logits of a few short prompts, the allocator
GIB = 2**30


def needed(plan: Plan, *, base: Layout, adapter_file: Path) -> int:
    """Bytes for one model in float32 and the adapter (base + adapter and merged come one after the other).

    The largest tensor counts some times more: while it is loaded, and while it is rounded.
    """
    counts = [math.prod(t.shape) for t in base.tensors.values() if t.dtype in FLOATS]
    added = sum(math.prod(tensor.shape) for tensor in plan.added)
    adapter = adapter_file.stat().st_size if adapter_file.exists() else 0
    return 4 * (sum(counts) + added + 2 * max(counts, default=0)) + 4 * adapter + SPARE


def choose_device(device: str, *, need: int) -> str:
    """Where to run: on the GPU when it is asked for (or `auto`), there, and large enough; else on the CPU."""
    if device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return "cuda" if torch.cuda.mem_get_info()[0] > need else "cpu"


def lacking(plan: Plan, *, base: Layout, adapter_file: Path) -> str | None:
    """One sentence that says how much memory is missing; None when it fits."""
    need, free = needed(plan, base=base, adapter_file=adapter_file), available()
    if need <= free:
        return None
    missing = f"{(need - free) / GIB:.1f} GiB are missing"
    return f"The comparison needs {need / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free: {missing}."
