"""The adapter's tensors, read when they are asked for and checked before anything is merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from bot.errors import RefusedError
from bot.records import Binding
from bot.weights.files import LocalFiles
from bot.weights.floats import RAW, Array, widen
from bot.weights.layout import Layout, Shard, read_header
from bot.weights.rows import RowReader

ZEROED = (".lora_B.weight", ".lora_embedding_B")
START = (".lora_A.weight", ".lora_embedding_A")


class Adapter:
    """The tensors of an adapter's file by their names in the plan.

    Raises RefusedError for NaN or infinity, InputError for a broken file.
    """

    def __init__(self, path: Path, *, renamed: Mapping[str, str]) -> None:
        header = read_header(LocalFiles(path.parent), path.name, size=path.stat().st_size)
        self._stored_as = {renamed.get(t.name, t.name): t.name for t in header.tensors}
        self._layout = Layout((Shard(file=path.name, header=header),))
        self._reader = RowReader(path.parent, layout=self._layout)
        for name, stored in self._stored_as.items():
            if self._layout.tensors[stored].dtype in RAW and not np.isfinite(self.array(name)).all():
                raise RefusedError(
                    f"The adapter tensor {name} holds NaN or infinity: the training diverged.",
                    advice="Take an earlier checkpoint.",
                    code="adapter-not-finite",
                )

    def array(self, name: str) -> Array:
        """A float tensor in its shape: float64 for F64, else float32, exact."""
        spec = self._layout.tensors[self._stored_as[name]]
        return widen(self._reader.rows(spec.name), spec.dtype).reshape(spec.shape)

    def check_effect(self, bindings: Iterable[Binding]) -> None:
        """Raises RefusedError when it is plain that the adapter changes nothing, so that no time is lost on it.

        The merge itself checks again, on the merged tensors.
        """
        known = [b for b in bindings if b.method != "copy"]
        if any(b.method not in {"lora", "lora_bias"} for b in known):
            return
        if all(b.scale == 0 for b in bindings):
            raise without_effect("its lora_alpha is zero")
        if all(self._is_zero(b) for b in known):
            raise without_effect("every product of its low-rank matrices is zero")

    def _is_zero(self, binding: Binding) -> bool:
        if binding.method == "lora_bias":
            return not any(self.array(k).any() for k in binding.adapter)
        return any(not self.array(k).any() for k in binding.adapter if k.endswith(ZEROED + START))


def without_effect(reason: str) -> RefusedError:
    """The refusal of an adapter that leaves the base as it is."""
    return RefusedError(
        f"The adapter has no effect: {reason}.",
        advice="Check that the trained checkpoint was saved, not the one before the first step.",
        code="no-effect",
    )
