"""Merges layer by layer through PEFT's own code; plain low-rank layers by rows, as in any other merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from bot.merge.config import edited_config
from bot.merge.modules import ModuleMerger
from bot.merge.piece import TASK, Merger, Part, Piece, spans
from bot.merge.rounding import rounded
from bot.records import Binding, Plan
from bot.weights.floats import Array, narrow
from bot.weights.reader import TensorReader


class LayerMerger:
    """Gives the stream one layer at a time, through PEFT's own code; rows where the layer is a plain low-rank one."""

    def __init__(
        self,
        plan: Plan,
        *,
        config: dict[str, Any],
        reader: TensorReader,
        adapter: Mapping[str, torch.Tensor],
        rows: Merger | None,
        device: torch.device,
    ) -> None:
        edited = edited_config(config, {e.key: e.after for e in plan.config_edits})
        self.reader = reader
        self.modules = self._modules(plan, config=edited, adapter=adapter, device=device)
        self.rows = rows
        self._changed = False

    def _modules(
        self,
        plan: Plan,
        *,
        config: dict[str, Any],
        adapter: Mapping[str, torch.Tensor],
        device: torch.device,
    ) -> ModuleMerger:
        return ModuleMerger(
            plan,
            config=config,
            base=self.reader.layout,
            adapter=adapter,
            device=device,
            as_peft=plan.parity == "peft",
        )

    @property
    def changed(self) -> bool:
        """Whether anything that was merged differs from the base."""
        return self._changed or (self.rows is not None and self.rows.changed)

    def pieces(self, binding: Binding, *, dtype: str) -> Iterator[Piece]:
        """Row blocks, or the whole tensor, for which there is memory once."""
        if self.rows is not None and self.modules.is_low_rank(binding):
            self.modules.check(binding, self.reader.read)
            yield from self.rows.pieces(binding, dtype=dtype)
        else:
            yield Piece(parts=partial(self._parts, binding, dtype=dtype), alone=True)

    def _parts(self, binding: Binding, *, dtype: str) -> Iterator[Part]:
        before = self._before(binding)
        merged = self._merged(binding)
        comparable = binding.method != "copy" and not self.changed
        if comparable and (before is None or before.shape != merged.shape):
            self._changed, comparable = True, False
        matrix = merged.reshape(merged.shape[0] if merged.ndim else 1, -1)
        for first, last in spans(0, matrix.shape[0], columns=matrix.shape[1], numbers=TASK):
            data = rounded(array(matrix[first:last]), dtype=dtype, name=binding.tensor)
            if comparable and before is not None and not self._changed:
                same = narrow(array(before.reshape(matrix.shape)[first:last]), dtype)
                self._changed = not np.array_equal(same, data)
            yield Part(first=first, last=last, data=data)

    def _before(self, binding: Binding) -> torch.Tensor | None:
        """What the merged tensor is compared with, to see an effect; None where the base has nothing like it."""
        origin = binding.tensor if binding.tensor in self.reader.layout.tensors else binding.source
        return None if origin is None else self.reader.read(origin)

    def _merged(self, binding: Binding) -> torch.Tensor:
        return self.modules.merge(binding, self.reader.read)


def array(tensor: torch.Tensor) -> Array:
    """The numbers in numpy: float64 as they are, all others in float32."""
    wide = torch.promote_types(tensor.dtype, torch.float32)
    result: Array = tensor.detach().to("cpu", wide).numpy()
    return result
