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
    dropped: Iterable[str] = (),
    whole: bool = False,
) -> Estimate:
    """The estimate for a merge into `layout`, without its tensors that are `dropped`.

    `whole`: the model is loaded, as far as the memory goes, and the rest of it lies on the disk meanwhile.
    """
    shapes = {b.tensor: b.shape for b in bindings}
    gone = set(dropped)
    tensors = [(t.dtype, shapes.get(n, t.shape)) for n, t in layout.tensors.items() if n not in gone]
    tensors += [(a.dtype, a.shape) for a in added]
    output = sum(math.prod(shape) * _bits(name, dtype=dtype) // 8 for name, shape in tensors)
    largest = max((math.prod(shape) * 4 for shape in shapes.values()), default=0)
    return Estimate(
        download_bytes=download_bytes,
        output_bytes=output,
        disk_bytes=output + download_bytes + (layout.total_bytes if whole else 0),
        memory_bytes=PROCESS + COPIES * largest + 2 * adapter_bytes,
    )


def _bits(name: str, *, dtype: str) -> int:
    return FLOAT_BITS[dtype] if dtype != "auto" and name in FLOATS else ITEM_BITS[name]
