"""The proof while the merge is written: what lies in the output's files is held against the base and the formulas.

Implements `bot.merge.witness.Witness`. What it leaves out (methods without a formula, norms over columns, which need
the whole matrix) is for `bot.validate.tensors`, which looks at nothing a second time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from threadpoolctl import threadpool_limits

from bot.records import Binding, Plan
from bot.request import MergeRequest
from bot.validate.copies import compare, place
from bot.validate.expected import expected_tensors
from bot.validate.formula import Expression
from bot.validate.found import Found
from bot.validate.measure import Measure, measure
from bot.validate.oracle import Oracle, transposed_modules
from bot.validate.reference import METHODS, NoReferenceError
from bot.validate.sample import sample
from bot.validate.sources import FileRows, Source
from bot.validate.spectrum import energies
from bot.weights.floats import Array
from bot.weights.header import Header, TensorSpec
from bot.weights.layout import Layout, Shard
from bot.weights.rows import RowReader

BATCH = 2**20  # elements written before they are looked at: small blocks cost more to call than to compute


@dataclass
class _Case:
    """One binding's tensor: its formula, the rows to look at, and how far it has come."""

    name: str
    expected: Expression
    merged: Source
    origin: Source | None
    index: Array
    measure: Measure
    waiting: list[tuple[int, int]] = field(default_factory=list)
    looked: list[tuple[int, int]] = field(default_factory=list)
    written: int = 0

    def is_complete(self) -> bool:
        """Whether every row was looked at, and none twice."""
        ends = [0, *(end for span in sorted(self.looked) for end in span), self.merged.shape[0]]
        return ends[::2] == ends[1::2]


def looking_on(
    plan: Plan, *, base_folder: Path, base: Layout, adapter_folder: Path, out: Path, request: MergeRequest
) -> AbstractContextManager[Witness | None]:
    """A witness, where it is asked for that tensors are checked."""
    if request.validation not in ("tensors", "full"):
        return nullcontext()
    return Witness(
        plan,
        base_folder=base_folder,
        base=base,
        adapter_folder=adapter_folder,
        out=out,
        thorough=request.thorough,
    )


class Witness:
    """Looks on while the folder `out` is written. Several threads may call it at once."""

    def __init__(
        self,
        plan: Plan,
        *,
        base_folder: Path,
        base: Layout,
        adapter_folder: Path,
        out: Path,
        thorough: bool = False,
    ) -> None:
        self._base_folder, self._base, self._out = base_folder, base, out
        self._thorough = thorough
        self._expected = expected_tensors(plan, base=base)
        self._oracle = Oracle(
            plan,
            base_folder=base_folder,
            base=base,
            adapter_folder=adapter_folder,
            transposed=transposed_modules(plan, base_folder=base_folder),
        )
        self._lock = threading.Lock()
        self._layouts: dict[str, Layout] = {}
        self._readers: dict[str, RowReader] = {}
        self._cases: dict[str, _Case | None] = {}
        self._found = Found()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(threadpool_limits(1, user_api="blas"))
        self._stack.enter_context(self._oracle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def begin(self, file: str, header: Header) -> None:
        """The shard `file` of the output was opened; this is its header."""
        layout = Layout((Shard(file=file, header=header),))
        reader = RowReader(self._out, layout=layout)
        with self._lock:
            self._stack.enter_context(reader)
            for spec in header.tensors:
                self._layouts[spec.name], self._readers[spec.name] = layout, reader

    def merged(self, binding: Binding, *, first: int, last: int) -> None:
        """Rows `first` to `last` (exclusive) of the binding's tensor have been written."""
        with self._lock:
            if binding.tensor not in self._cases:
                self._cases[binding.tensor] = self._case(binding)
            case = self._cases[binding.tensor]
            if case is None:
                return
            rows, columns = case.merged.shape
            case.waiting.append((first, last))
            case.written += last - first
            waiting = sum(end - start for start, end in case.waiting)
            if waiting * columns < BATCH and case.written < rows:
                return
            spans, case.waiting = sorted(case.waiting), []
        part = self._measured(case, spans)
        with self._lock:
            case.measure.absorb(part)
            case.looked += spans
            if case.written < rows or not case.is_complete():
                return
            self._cases[binding.tensor] = None
        case.measure.energies = energies(case.expected)
        with self._lock:
            self._found.add_measure(case.measure)

    def copied(self, tensors: Sequence[TensorSpec]) -> None:
        """These tensors of the output, none of them bound, have been written."""
        for new in tensors:
            old, expected = self._base.tensors.get(new.name), self._expected.get(new.name)
            if old is None or expected is None or expected.touched:
                continue
            if new.shape != old.shape or new.dtype != expected.dtype:
                continue
            before = place(self._base_folder, layout=self._base, spec=old)
            after = place(self._out, layout=self._layouts[new.name], spec=new)
            wrong, infinite = compare(before, after, old=old.dtype, new=new.dtype)
            with self._lock:
                self._found.add_copy(new.name, bytes_=new.size, wrong=wrong, infinite=infinite)

    def found(self) -> Found:
        """What was seen of tensors that are complete; in the order of their names, whatever came first."""
        with self._lock:
            self._found.measures.sort(key=lambda m: m.name)
            return self._found

    def _case(self, binding: Binding) -> _Case | None:
        """The formula and the rows to look at; None where there is no formula that goes row by row."""
        if binding.method not in METHODS:
            return None
        try:
            formula = self._oracle.formula(binding)
        except NoReferenceError:  # said by the pass after the merge
            return None
        name = binding.tensor
        spec = self._layouts[name].tensors[name]
        if formula.needs_all or spec.dtype != formula.dtype or spec.shape != binding.shape:
            return None
        rows, columns = formula.shape
        origin = self._oracle.origin(binding)
        return _Case(
            name=name,
            expected=self._oracle.bounded(formula, binding),
            merged=FileRows(self._readers[name], name),
            origin=origin,
            index=sample(name, (rows, columns), thorough=self._thorough),
            measure=Measure(name, rows * columns, changed=origin is None),
        )

    def _measured(self, case: _Case, spans: list[tuple[int, int]]) -> Measure:
        """The comparison of the sample's rows among these spans, read back from the file."""
        bounds = [np.searchsorted(case.index, span) for span in spans]
        index = np.concatenate([case.index[start:end] for start, end in bounds])
        sampled = len(case.index) < case.merged.shape[0]
        return measure(
            case.name,
            case.merged,
            index=index,
            expected=case.expected,
            origin=case.origin,
            sampled=sampled,
        )
