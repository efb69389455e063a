"""The formula of each binding, fed from the base's and the adapter's own files, row by row as it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from bot.records import Binding, Plan
from bot.validate.expected import output_dtype
from bot.validate.formula import Evaluated, Expression, Formula
from bot.validate.parity import as_peft
from bot.validate.reference import METHODS, NoReferenceError, formula, role
from bot.validate.sources import ArrayRows, FileRows, Source, everything, matrix_shape
from bot.weights.files import LocalFiles
from bot.weights.header import FLOATS
from bot.weights.layout import Layout, Shard, read_header
from bot.weights.rows import RowReader

Exact = Callable[[Binding], Any]  # the value as a float64 tensor of torch, which is not imported here

TRAINED, INITIAL = (
    ".trained.safetensors",
    ".initial.safetensors",
)  # beside the weights that were stacked from them
LEFT, RIGHT = frozenset({"lora_B", "lora_embedding_B"}), frozenset({"lora_A", "lora_embedding_A"})


def transposed_modules(plan: Plan, *, base_folder: Path) -> frozenset[str] | None:
    """The modules that store their weight as (in, out); None when the model cannot be built.

    Names alone bind nothing but nn.Linear, which has none.
    """
    if plan.way == "names":
        return frozenset()
    from bot.validate.models import conv1d_modules  # noqa: PLC0415 - transformers

    return conv1d_modules(base_folder, plan.model_class)


class Oracle:
    """Says what each changed tensor must be. Tells it to several threads at once, but for what `exact` makes.

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
        self._base = RowReader(base_folder, layout=base)
        file = plan.adapter_file if plan.initial is None else TRAINED
        self._adapter = RowReader(adapter_folder, layout=_layout(adapter_folder, file))
        self._stored_as = {new: old for old, new in plan.renamed.items()}
        self._initial: RowReader | None = None
        if plan.initial is not None:
            self._initial = RowReader(adapter_folder, layout=_layout(adapter_folder, INITIAL))
        self._initial_stored_as = {new: old for old, new in plan.initial_renamed.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._adapter.__exit__(kind, error, trace)
        if self._initial is not None:
            self._initial.__exit__(kind, error, trace)
        self._base.__exit__(kind, error, trace)

    def base(self, name: str | None) -> Source | None:
        """A tensor of the base; None when it has none of that name, or one that holds no plain numbers."""
        return _source(self._base, name)

    def origin(self, binding: Binding) -> Source | None:
        """The base's tensor that a merged one is compared with, when it has its shape."""
        found = self.base(binding.source or binding.tensor)
        return found if found is not None and found.shape == matrix_shape(binding.shape) else None

    def expected(self, binding: Binding) -> Expression:
        """The binding's formula, or its value. Raises NoReferenceError when there is neither."""
        return self.bounded(self._exactly(binding), binding)

    def bounded(self, found: Formula | Evaluated, binding: Binding) -> Expression:
        """What the binding must be with the bound of the plan's arithmetic: its own, or that of PEFT's merge."""
        if self.plan.parity == "exact":
            return found
        return as_peft(found, method=binding.method, base=self.origin(binding))

    def _exactly(self, binding: Binding) -> Formula | Evaluated:
        if binding.method in METHODS or self._exact is None:
            return self.formula(binding)
        value = np.asarray(self._exact(binding).double().cpu().numpy())
        if value.size != math.prod(binding.shape):
            raise NoReferenceError(f"its value has the shape {value.shape} instead of {binding.shape}")
        matrix = value.reshape(matrix_shape(binding.shape))
        return Evaluated(value=matrix, dtype=output_dtype(self.plan, binding.dtype))

    def formula(self, binding: Binding) -> Formula:
        """The binding's formula, for a merge that rounds once. Raises NoReferenceError when there is none."""
        names = {self.plan.renamed.get(name, name) for name in self._adapter.layout.tensors}
        if lost := [name for name in binding.adapter if name not in names]:
            raise NoReferenceError(f"the adapter's file has no {lost[0]}")
        module = binding.parameter.rpartition(".")[0]
        found = formula(
            binding,
            source=self.base(binding.source),
            adapter={name: self._part(name) for name in binding.adapter},
            config=self.plan.adapter_config,
            transposed=None if self.transposed is None else module in self.transposed,
        )
        return replace(found, dtype=output_dtype(self.plan, binding.dtype))

    def _part(self, name: str) -> Source:
        found = _source(self._adapter, self._stored_as.get(name, name))
        if found is None:
            raise NoReferenceError(f"the adapter's {name} holds no plain numbers")
        return found if self._initial is None else self._with_start(name, found, initial=self._initial)

    def _with_start(self, name: str, trained: Source, *, initial: RowReader) -> Source:
        """For an adapter with an initial state the factors of BA - B₀A₀, from the two files that were stacked."""
        part = role(name)
        if part not in LEFT | RIGHT:
            return trained
        start = _source(initial, self._initial_stored_as.get(name, name))
        if start is None:
            raise NoReferenceError(f"the initial adapter has no {name}")
        first, second = everything(trained), everything(start)
        both = np.concatenate((first, second)) if part in RIGHT else np.concatenate((first, -second), axis=1)
        return ArrayRows(both, dtype="F64")


def _layout(folder: Path, file: str) -> Layout:
    """That of the adapter: one file, whatever its name."""
    size = (folder / file).stat().st_size
    return Layout((Shard(file=file, header=read_header(LocalFiles(folder), file, size=size)),))


def _source(reader: RowReader, name: str | None) -> Source | None:
    spec = reader.layout.tensors.get(name) if name is not None else None
    return FileRows(reader, spec.name) if spec is not None and spec.dtype in FLOATS else None
