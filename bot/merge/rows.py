"""LoRA and DoRA in row blocks that fit the cache: widen, add the low-rank product, round. Needs numpy alone.

LoRA, arXiv:2106.09685: W + s·BA. DoRA, arXiv:2402.09353: m·V/‖V‖ with V = W + s·BA, the norm over each row.
Everything is computed in float32 (in float64 where base or adapter have it) and rounded once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np

from bot.errors import InternalError
from bot.merge.piece import BLOCK, TASK, Part, Piece, spans
from bot.merge.rounding import Bfloat16Desk, rounded
from bot.records import Binding
from bot.weights.floats import Array, narrow, widen
from bot.weights.rows import RowReader

Tensor = Callable[[str], Array]


class RowMerger:
    """Merges plain LoRA and DoRA; its pieces may be made in any order by several threads.

    `adapter` gives a tensor of the adapter in its shape, float32 or float64.
    """

    def __init__(self, *, reader: RowReader, adapter: Tensor) -> None:
        self.reader = reader
        self.adapter = adapter
        self.changed = False
        self._desks = threading.local()

    def pieces(self, binding: Binding, *, dtype: str) -> Iterator[Piece]:
        """The binding's row blocks."""
        low_rank = cache(partial(LowRank, binding, adapter=self.adapter))  # who only counts pieces needs none
        rows, columns = binding.shape
        for first, last in spans(0, rows, columns=columns, numbers=TASK):
            yield Piece(parts=partial(self._parts, binding, low_rank, first, last, dtype=dtype))

    def _parts(
        self, binding: Binding, made: Callable[[], LowRank], first: int, last: int, *, dtype: str
    ) -> Iterator[Part]:
        name, low_rank = str(binding.source), made()
        stored = self.reader.layout.tensors[name].dtype
        if stored == dtype == "BF16" and low_rank.a.dtype == np.float32:
            desk = self._desk()
            data = self.reader.rows(name, first, last, out=desk.raw((last - first, binding.shape[1])))
            for start, end in spans(first, last, columns=binding.shape[1], numbers=BLOCK):
                block = data[start - first : end - first]
                before = None if self.changed else block.copy()
                weight, product = desk.widen(block)
                low_rank.add(weight, first=start, last=end, product=product)
                desk.rounded(name=binding.tensor, out=block)
                if before is not None:
                    self._compare(before, block)
            yield Part(first=first, last=last, data=data)
            return
        for start, end in spans(first, last, columns=binding.shape[1], numbers=BLOCK):
            before = self.reader.rows(name, start, end)
            wide = widen(before, stored).astype(low_rank.a.dtype, copy=False)
            data = rounded(low_rank.add(wide, first=start, last=end), dtype=dtype, name=binding.tensor)
            self._compare(before if stored == dtype else narrow(widen(before, stored), dtype), data)
            yield Part(first=start, last=end, data=data)

    def _compare(self, before: Array, after: Array) -> None:
        self.changed = self.changed or not np.array_equal(before, after)

    def _desk(self) -> Bfloat16Desk:
        desk: Bfloat16Desk | None = getattr(self._desks, "desk", None)
        if desk is None:
            desk = self._desks.desk = Bfloat16Desk()
        return desk


class LowRank:
    """The adapter of one weight.

    `a`: (r, in), `b`: (out, r), times the scale; `magnitude`: (out, 1) for DoRA. An embedding's rows are its tokens:
    there the stored `lora_embedding_A` (r, tokens) and `lora_embedding_B` (dim, r) change places, transposed.
    """

    def __init__(self, binding: Binding, *, adapter: Tensor) -> None:
        if binding.scale is None:
            raise InternalError(f"{binding.tensor} has no scale.", advice="Report it.", code="no-scale")
        found: dict[str, Array] = {}
        for key in binding.adapter:  # its own come first, behind them those of a layer that it is tied to
            _, mark, role = key.rpartition(".lora_")
            if mark:
                found.setdefault(role, adapter(key))
        embedding = "embedding_A" in found
        a, b = (
            (found["embedding_B"].T, found["embedding_A"].T)
            if embedding
            else (found["A.weight"], found["B.weight"])
        )
        wide = np.result_type(a, b, np.float64 if binding.dtype == "F64" else np.float32)
        self.a = np.ascontiguousarray(a, dtype=wide)
        self.b = np.ascontiguousarray(b, dtype=wide) * wide.type(binding.scale)
        magnitude = found.get("magnitude_vector")
        self.magnitude = None if magnitude is None else magnitude.astype(wide).reshape(-1, 1)

    def add(self, weight: Array, *, first: int, last: int, product: Array | None = None) -> Array:
        """Merges rows `first` to `last` (exclusive) in place; not yet rounded. `product`: memory of their size."""
        product = np.matmul(self.b[first:last], self.a, out=product)
        weight += product
        if self.magnitude is not None:
            squares = np.multiply(weight, weight, out=product).sum(axis=1, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):  # refused as not finite
                weight *= self.magnitude[first:last] / np.sqrt(squares)
        return weight
