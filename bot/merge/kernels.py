"""LoRA and DoRA by rows on a CUDA device: the formulas of `bot.merge.rows`, in float32 without TF32.

Every worker has a stream and page-locked memory of its own, so that one's copies overlap with another's sums.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from bot.merge.piece import Part, Piece, not_finite, overflow, spans
from bot.merge.rows import LowRank, Tensor
from bot.records import Binding
from bot.weights.floats import RAW, Array
from bot.weights.reader import TORCH_DTYPES
from bot.weights.rows import RowReader

TASK = 2**23  # numbers that go to the device at a time: enough to keep it busy, 16 MB of bfloat16


class DeviceRowMerger:
    """Merges plain LoRA and DoRA on `device`; its pieces may be made in any order by several threads.

    `adapter` gives a tensor of the adapter in its shape, float32 or float64.
    """

    def __init__(self, *, reader: RowReader, adapter: Tensor, device: str) -> None:
        self.reader = reader
        self.adapter = adapter
        self.device = torch.device(device)
        self.changed = False
        self._lanes = threading.local()
        torch.backends.cuda.matmul.allow_tf32 = False

    def pieces(self, binding: Binding, *, dtype: str) -> Iterator[Piece]:
        """The binding's row blocks."""
        factors = _Factors(LowRank(binding, adapter=self.adapter), device=self.device)
        rows, columns = binding.shape
        for first, last in spans(0, rows, columns=columns, numbers=TASK):
            yield Piece(parts=partial(self._parts, binding, factors, first, last, dtype=dtype))

    def _parts(
        self, binding: Binding, factors: _Factors, first: int, last: int, *, dtype: str
    ) -> Iterator[Part]:
        name = str(binding.source)
        lane = self._lane()
        shape = (last - first, binding.shape[1])
        stored = lane.memory("in", shape, self.reader.layout.tensors[name].dtype)
        self.reader.rows(name, first, last, out=_as_array(stored))
        with lane.working():
            before = stored.to(self.device, non_blocking=True)
            merged = factors.add(before, first=first, last=last)
            result = merged.to(TORCH_DTYPES[dtype])
            # Rounding is monotonic, so the extremes tell for all (NaN is an extreme, too).
            extremes = torch.stack([*torch.aminmax(merged), *torch.aminmax(result)])
            data = lane.memory("out", shape, dtype)
            data.copy_(result, non_blocking=True)
            ends = torch.isfinite(extremes.double()).cpu()  # waits for the lane
            if not ends.all():
                raise overflow(binding.tensor, dtype=dtype) if ends[:2].all() else not_finite(binding.tensor)
            if not self.changed:
                self.changed = not torch.equal(result, before.to(result.dtype))
        yield Part(first=first, last=last, data=_as_array(data))

    def _lane(self) -> _Lane:
        lane: _Lane | None = getattr(self._lanes, "lane", None)
        if lane is None:
            lane = self._lanes.lane = _Lane(self.device)
        return lane


class _Factors:
    """The adapter of one weight on the device."""

    def __init__(self, low_rank: LowRank, *, device: torch.device) -> None:
        self.a = torch.from_numpy(low_rank.a).to(device)
        self.b = torch.from_numpy(low_rank.b).to(device)
        magnitude = low_rank.magnitude
        self.magnitude = None if magnitude is None else torch.from_numpy(magnitude).to(device)

    def add(self, weight: torch.Tensor, *, first: int, last: int) -> torch.Tensor:
        """The merged rows, not yet rounded, from those of the base."""
        merged = weight.to(self.a.dtype, copy=True).addmm_(self.b[first:last], self.a)
        if self.magnitude is not None:
            norm = torch.linalg.vector_norm(merged, dim=1, keepdim=True)
            merged.mul_(self.magnitude[first:last] / norm)
        return merged


class _Lane:
    """One worker's stream, and its page-locked memory by use."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._stream: Any = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._memory: dict[tuple[str, str], torch.Tensor] = {}

    def working(self) -> torch.cuda.StreamContext:
        """Within it, the device works in this lane's order."""
        return torch.cuda.stream(self._stream)

    def memory(self, use: str, shape: tuple[int, int], dtype: str) -> torch.Tensor:
        """A tensor that the next one of the same use overwrites."""
        held = self._memory.get((use, dtype))
        if held is None or held.numel() < shape[0] * shape[1]:
            held = torch.empty(
                max(TASK, shape[0] * shape[1]), dtype=TORCH_DTYPES[dtype], pin_memory=self._cuda
            )
            self._memory[use, dtype] = held
        return held[: shape[0] * shape[1]].view(shape)


def _as_array(tensor: torch.Tensor) -> Array:
    """The same memory in numpy, in the dtype on disk."""
    name = next(n for n, kind in TORCH_DTYPES.items() if kind == tensor.dtype)
    view: Array = tensor.view(torch.uint8).numpy().view(RAW[name])
    return view
