"""How much memory the comparison of answers needs, and how much there is."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from bot.records import Plan
from bot.weights.header import FLOATS
from bot.weights.layout import Layout

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
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


def available() -> int:
    """Bytes that this process may still take: the machine's, or its control group's when that is less."""
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group, or one without a limit
        return free
    return min(free, limit - used + int(stat.get("file", 0)))


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
