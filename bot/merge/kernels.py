"""LoRA and DoRA in row blocks that fit the cache: upcast, add the low-rank product, round. Needs torch alone.

LoRA, arXiv:2106.09685: W + s·BA. DoRA, arXiv:2402.09353: m·V/‖V‖ with V = W + s·BA, the norm over each row.
Everything is computed in float32 (in float64 for a float64 base) and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch

from bot.errors import InternalError
from bot.merge.piece import Piece
from bot.records import Binding
from bot.weights.reader import TensorReader

BLOCK = 2**19  # elements: with its float32 copy and the factors, what the caches of one core hold


class RowMerger:
    """Merges plain LoRA and DoRA; its pieces are row blocks, and may be made in any order by several threads."""

    parallel = True

    def __init__(
        self, *, reader: TensorReader, adapter: Mapping[str, torch.Tensor], device: torch.device
    ) -> None:
        self.reader = reader
        self.adapter = adapter
        self.device = device

    def pieces(self, binding: Binding) -> Iterator[Piece]:
        """The binding's row blocks."""
        weight = self.reader.read(str(binding.source))
        low_rank = LowRank(binding, adapter=self.adapter, wide=weight.dtype, device=self.device)
        for first, last in row_blocks(binding.shape):
            yield partial(low_rank.merge, weight, first=first, last=last)


class LowRank:
    """The adapter of one weight, on the device, in wide floats.

    `a`: (r, in), `b`: (out, r), `magnitude`: (out,) for DoRA. An embedding's rows are its tokens: there the stored
    `lora_embedding_A` (r, tokens) and `lora_embedding_B` (dim, r) change places, transposed.
    """

    def __init__(
        self,
        binding: Binding,
        *,
        adapter: Mapping[str, torch.Tensor],
        wide: torch.dtype,
        device: torch.device,
    ) -> None:
        if binding.scale is None:
            raise InternalError(f"{binding.tensor} has no scale.", advice="Report it.", code="no-scale")
        dtype = torch.promote_types(wide, torch.float32)
        found: dict[str, torch.Tensor] = {}
        for (
            key
        ) in binding.adapter:  # its own tensors come first, those of a layer that it is tied to behind them
            _, mark, role = key.rpartition(".lora_")
            if mark and role not in found:
                found[role] = adapter[key].to(device, dtype)
        if "embedding_A" in found:
            self.a, self.b = found["embedding_B"].T, found["embedding_A"].T
        else:
            self.a, self.b = found["A.weight"], found["B.weight"]
        self.scale = binding.scale
        self.magnitude = found.get("magnitude_vector")

    def merge(self, weight: torch.Tensor, *, first: int, last: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        """The merged rows `first` to `last` of `weight` (out, in), not yet rounded, and those of the base."""
        rows = weight[first:last]
        merged = rows.to(self.a.device, self.a.dtype, copy=True)
        merged.addmm_(self.b[first:last], self.a, alpha=self.scale)
        if self.magnitude is not None:
            norm = torch.linalg.vector_norm(merged, dim=1)
            merged.mul_((self.magnitude[first:last] / norm).unsqueeze(1))
        return first * weight.shape[1], merged, rows


def row_blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) row of each block. They depend on the shape alone: the bytes do not on the workers."""
    rows, columns = shape
    step = max(1, BLOCK // max(columns, 1))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)
