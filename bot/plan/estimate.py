"""What a merge needs: bytes to fetch and to write, disk and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bot.records import AddedTensor, Binding, Estimate
from bot.weights.header import FLOATS, ITEM_BITS
from bot.weights.layout import Layout

FLOAT_BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
PROCESS = 450_000_000  # bytes of torch, transformers and PEFT themselves, measured
COPIES = 3  # of the largest module in float32: the weight, the delta, and the result


def estimate(
    layout: Layout,
    *,
    bindings: Iterable[Binding],
    added: Iterable[AddedTensor],
    dtype: str,
    adapter_bytes: int,
    download_bytes: int,
) -> Estimate:
    """The estimate for a merge into `layout`."""
    shapes = {b.tensor: b.shape for b in bindings}
    tensors = [(t.dtype, shapes.get(t.name, t.shape)) for t in layout.tensors.values()]
    tensors += [(a.dtype, a.shape) for a in added]
    output = sum(math.prod(shape) * _bits(name, dtype=dtype) // 8 for name, shape in tensors)
    largest = max((math.prod(shape) * 4 for shape in shapes.values()), default=0)
    return Estimate(
        download_bytes=download_bytes,
        output_bytes=output,
        disk_bytes=output + download_bytes,
        memory_bytes=PROCESS + COPIES * largest + 2 * adapter_bytes,
    )


def _bits(name: str, *, dtype: str) -> int:
    return FLOAT_BITS[dtype] if dtype != "auto" and name in FLOATS else ITEM_BITS[name]
