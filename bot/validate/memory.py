"""How much memory the comparison of answers needs, whole or offloaded to the disk, and how much there is."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from bot.address import address
from bot.records import Plan
from bot.validate.models import converted
from bot.weights.header import FLOATS
from bot.weights.layout import Layout
from bot.weights.memory import available

SPARE = 300 * 2**20  # tokenizer, activations and logits of a few short prompts, the allocator
SHARE = (
    0.5  # of what is free beyond that is for weights that stay in memory: what loading takes needs the rest
)
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether the models fit into memory.

    `lack`: one sentence on what is missing for the whole model; None when it fits. `weights`: bytes of memory for
    weights when it is offloaded to the disk; None when that cannot be either, and then `lack` says so.
    """

    lack: str | None = None
    weights: int | None = None


def needed(plan: Plan, *, base: Layout, adapter_file: Path) -> int:
    """Bytes for one model in float32 and the adapter (base + adapter and merged come one after the other).

    The largest tensor counts some times more: while it is loaded, and while it is rounded.
    """
    counts = [math.prod(t.shape) for t in base.tensors.values() if t.dtype in FLOATS]
    added = sum(math.prod(tensor.shape) for tensor in plan.added)
    return 4 * (sum(counts) + added + 2 * max(counts, default=0)) + _adapter(adapter_file) + SPARE


def needed_offloaded(*, base: Layout, adapter_file: Path) -> tuple[int, int]:
    """Bytes for the largest layer in float32 alone, and in all when only one is in memory at a time."""
    layers: dict[tuple[str, int | str], int] = {}
    largest = 0
    for name, tensor in base.tensors.items():
        if tensor.dtype in FLOATS:
            where, count = address(name), math.prod(tensor.shape)
            key = (where.stack, where.module if where.layer is None else where.layer)
            layers[key] = layers.get(key, 0) + count
            largest = max(largest, count)
    layer = 4 * max(layers.values(), default=0)
    return layer, layer + 2 * 4 * largest + _adapter(adapter_file) + SPARE


def fit(plan: Plan, *, base: Layout, base_folder: Path, adapter_file: Path) -> Fit:
    """How the models can be run with the memory and the disk that are free."""
    lack = lacking(plan, base=base, adapter_file=adapter_file)
    if lack is None:
        return Fit()
    free = available()
    layer, least = needed_offloaded(base=base, adapter_file=adapter_file)
    if least > free:
        return Fit(lack=f"{lack} Offloaded to the disk it needs {_missing(least, free)}.")
    scratch, room = (
        _scratch(plan, base=base, folder=base_folder),
        shutil.disk_usage(tempfile.gettempdir()).free,
    )
    if scratch > room:
        return Fit(lack=f"{lack} Offloaded to the disk it needs {_missing(scratch, room)} there.")
    # accelerate keeps the size of the largest layer free of what it may use
    return Fit(lack=lack, weights=layer + int(SHARE * (free - least)))


def choose_device(device: str, *, need: int) -> str:
    """Where to run: on the GPU when it is asked for (or `auto`), there, and large enough; else on the CPU."""
    if device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return "cuda" if torch.cuda.mem_get_info()[0] > need else "cpu"


def lacking(plan: Plan, *, base: Layout, adapter_file: Path) -> str | None:
    """One sentence that says how much memory is missing for a whole model; None when it fits."""
    need, free = needed(plan, base=base, adapter_file=adapter_file), available()
    if need <= free:
        return None
    missing = f"{(need - free) / GIB:.1f} GiB are missing"
    return f"The comparison needs {need / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are free: {missing}."


def _missing(need: int, free: int) -> str:
    return f"{need / GIB:.1f} GiB, {free / GIB:.1f} GiB are free: {(need - free) / GIB:.1f} GiB are missing"


def _adapter(file: Path) -> int:
    return 4 * file.stat().st_size if file.exists() else 0


def _scratch(plan: Plan, *, base: Layout, folder: Path) -> int:
    """Bytes on the disk for what is not there yet in a form to use: converted on loading, or rounded; in float32."""
    try:
        made = converted(folder, plan.model_class, base.tensors)
    except Exception:  # noqa: BLE001  # whatever transformers raises over a config: loading will say it
        made = {*base.tensors}
    changed = sum(math.prod(binding.shape) for binding in plan.bindings)
    return 4 * (sum(math.prod(base.tensors[name].shape) for name in made) + changed)
