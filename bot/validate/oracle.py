"""The formula of each binding, fed from the base's and the adapter's own files: one module in memory at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open

from bot.records import Binding, Plan
from bot.validate.expected import output_dtype
from bot.validate.formula import Evaluated, Formula
from bot.validate.reference import METHODS, NoReferenceError, formula
from bot.validate.rounding import matrix
from bot.weights.layout import Layout
from bot.weights.reader import TensorReader

Exact = Callable[[Binding], torch.Tensor]


class Oracle:
    """Says what each changed tensor must be.

    `transposed`: the modules that store (in, out); None when not known. `exact`: gives the float64 value of a binding
    whose method has no formula here.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        base_folder: Path,
        base: Layout,
        adapter_folder: Path,
        transposed: frozenset[str] | None,
        exact: Exact | None = None,
    ) -> None:
        self.plan = plan
        self.transposed = transposed
        self._exact = exact
        self._base = TensorReader(base_folder, layout=base)
        self._path = adapter_folder / plan.adapter_file
        self._stored_as = {new: old for old, new in plan.renamed.items()}
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

    def formula(self, binding: Binding) -> Formula | Evaluated:
        """The binding's formula with its tensors, or its value. Raises NoReferenceError when there is neither."""
        if binding.method not in METHODS and self._exact is not None:
            value = matrix(self._exact(binding))
            return Evaluated(start=value, dtype=output_dtype(self.plan, binding.dtype))
        module = binding.parameter.rpartition(".")[0]
        names = {self.plan.renamed.get(name, name) for name in self._adapter.keys()}  # noqa: SIM118 - not a dict
        if lost := [name for name in binding.adapter if name not in names]:
            raise NoReferenceError(f"the adapter's file has no {lost[0]}")
        found = formula(
            binding,
            source=self.base(binding.source),
            adapter={
                name: self._adapter.get_tensor(self._stored_as.get(name, name)) for name in binding.adapter
            },
            config=self.plan.adapter_config,
            transposed=None if self.transposed is None else module in self.transposed,
        )
        return replace(found, dtype=output_dtype(self.plan, binding.dtype))
