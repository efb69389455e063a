"""The formula of each binding, fed from the base's and the adapter's own files: one module in memory at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open

from bot.records import Binding, Plan
from bot.validate.expected import output_dtype
from bot.validate.formula import Formula
from bot.validate.reference import NoReferenceError, formula
from bot.weights.layout import Layout
from bot.weights.reader import TensorReader


class Oracle:
    """Says what each changed tensor must be. `transposed`: the modules that store (in, out); None when not known."""

    def __init__(
        self,
        plan: Plan,
        *,
        base_folder: Path,
        base: Layout,
        adapter_folder: Path,
        transposed: frozenset[str] | None,
    ) -> None:
        self.plan = plan
        self.transposed = transposed
        self._base = TensorReader(base_folder, layout=base)
        self._path = adapter_folder / plan.adapter_file
        self._adapter: Any = None

    def __enter__(self) -> Self:
        self._adapter = safe_open(self._path, framework="pt", device="cpu")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._adapter = None
        self._base.__exit__(kind, error, trace)

    def base(self, name: str | None) -> torch.Tensor | None:
        """A tensor of the base, as on disk; None when it has none of that name."""
        return self._base.read(name) if name in self._base.layout.tensors else None

    def formula(self, binding: Binding) -> Formula:
        """The binding's formula with its tensors. Raises NoReferenceError when they fit none."""
        module = binding.parameter.rpartition(".")[0]
        names = set(self._adapter.keys())
        if lost := [name for name in binding.adapter if name not in names]:
            raise NoReferenceError(f"the adapter's file has no {lost[0]}")
        found = formula(
            binding,
            source=self.base(binding.source),
            adapter={name: self._adapter.get_tensor(name) for name in binding.adapter},
            config=self.plan.adapter_config,
            transposed=None if self.transposed is None else module in self.transposed,
        )
        return replace(found, dtype=output_dtype(self.plan, binding.dtype))
