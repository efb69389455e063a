"""The proof tensor by tensor: what the adapter does not touch is the base's, what it touches is base + delta."""

from __future__ import annotations

from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bot.errors import MergeBotError
from bot.progress import Progress
from bot.records import Binding, Check, Plan
from bot.validate.causes import Cause, cause_of
from bot.validate.copies import Place, compare, place
from bot.validate.elsewhere import is_ours, merged_layout
from bot.validate.exchanged import belongs, beside, exchanged, holds
from bot.validate.expected import expected_tensors
from bot.validate.formula import Evaluated, Expression, Formula
from bot.validate.found import Found
from bot.validate.measure import Measure, measure
from bot.validate.oracle import Exact, Oracle, transposed_modules
from bot.validate.other_dtype import Stored, as_stored
from bot.validate.parity import as_peft
from bot.validate.reference import METHODS, NoReferenceError
from bot.validate.sample import sample
from bot.validate.second_look import look_again
from bot.validate.sources import FileRows, Source, is_finite
from bot.validate.spectrum import energies
from bot.validate.workers import workers
from bot.weights.floats import narrow, widen
from bot.weights.header import FLOATS, TensorSpec
from bot.weights.layout import Layout
from bot.weights.rows import RowReader

TASK = 2**20  # elements for one thread at a time


def check_tensors(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    base: Layout,
    adapter_folder: Path,
    progress: Progress,
    exact: Exact | None = None,
    thorough: bool = False,
    seen: Found | None = None,
) -> list[Check]:
    """Checks `untouched`, `effect`, `changed` and `finite`.

    Of changed tensors with a formula one row in sixteen is held against it, with `thorough` all; whether their
    elements are finite is seen of all. `seen`: what a witness of the merge has looked at; it is not looked at again.
    A merge that is not ours may round as PEFT does.
    """
    try:
        layout = merged_layout(merged, plan=plan, base=base, base_folder=base_folder)
    except MergeBotError as error:
        return [Check(name="changed", verdict="failed", figure="", detail=error.sentence)]
    found = seen or Found()
    look(
        merged,
        layout,
        plan=plan,
        base_folder=base_folder,
        base=base,
        adapter_folder=adapter_folder,
        progress=progress,
        exact=exact,
        thorough=thorough,
        found=found,
    )
    return found.checks(plan)


def look(  # noqa: PLR0913 - the merge, what it is held against, and how
    merged: Path,
    layout: Layout,
    *,
    plan: Plan,
    base_folder: Path,
    base: Layout,
    adapter_folder: Path,
    progress: Progress,
    exact: Exact | None,
    thorough: bool,
    found: Found,
    only: Container[str] | None = None,
) -> None:
    """Adds to `found` what is seen in the folder's tensors, or in `only` these; `layout` is that of its files."""
    foreign = not (found.ours or is_ours(merged, plan=plan))
    bindings = [b for b in plan.bindings if only is None or b.tensor in only]
    left = [b for b in bindings if b.tensor not in found.proven]
    needed = left or any(m.wrong for m in found.measures)
    oracle = Oracle(
        plan,
        base_folder=base_folder,
        base=base,
        adapter_folder=adapter_folder,
        transposed=transposed_modules(plan, base_folder=base_folder) if needed else frozenset(),
        exact=exact,
    )
    done = sum(spec.size for name, spec in layout.tensors.items() if name in found.proven)
    progress.begin("Checking tensors", total=layout.total_bytes - done)
    with oracle, RowReader(merged, layout=layout) as reader, workers() as pool:
        one = _Look(
            found=found, reader=reader, oracle=oracle, progress=progress, thorough=thorough, foreign=foreign
        )
        one.untouched(plan, base=base, base_folder=base_folder, only=only)
        for binding in sorted(left, key=lambda b: (layout.files.get(b.tensor, ""), b.tensor)):
            one.changed(binding, pool=pool)
        named = {b.tensor: b for b in bindings}
        one.effect(named)
        one.causes(named)
    progress.end()


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One pass over the tensors of a merged folder."""

    found: Found
    reader: RowReader
    oracle: Oracle
    progress: Progress
    thorough: bool
    foreign: bool

    def untouched(
        self, plan: Plan, *, base: Layout, base_folder: Path, only: Container[str] | None = None
    ) -> None:
        """Compares every tensor that no binding makes with the base's, by bytes."""
        layout = self.reader.layout
        for name, expected in expected_tensors(plan, base=base).items():
            new, old = layout.tensors.get(name), base.tensors.get(name)
            if expected.touched or old is None or name in self.found.proven:
                continue
            if only is not None and name not in only:
                continue
            if new is None or new.shape != old.shape or not _comparable(old.dtype, new.dtype):
                self.found.wrong_copies.append(f"{name} ({_misfit(new, old.shape)})")
                continue
            before = place(base_folder, layout=base, spec=old)
            after = place(self.reader.folder, layout=layout, spec=new)
            wrong, infinite = compare(before, after, old=old.dtype, new=new.dtype, progress=self.progress)
            words = self._taken(name, after, base=base, base_folder=base_folder) if wrong else ""
            self.found.add_copy(name, bytes_=new.size, wrong=wrong, infinite=infinite, words=words)

    def _taken(self, name: str, after: Place, *, base: Layout, base_folder: Path) -> str:
        """Whether a tensor that is not the base's is another one of the base."""
        spec = base.tensors[name]
        same = {t.name: t.shape for t in base.tensors.values() if t.dtype == spec.dtype}
        for other in beside(name, same):
            before = place(base_folder, layout=base, spec=base.tensors[other])
            if compare(before, after, old=spec.dtype, new=self.reader.layout.tensors[name].dtype)[0] == 0:
                return belongs(other)
        return ""

    def changed(self, binding: Binding, *, pool: ThreadPoolExecutor) -> None:
        """Measures one changed tensor against its reference."""
        spec = self.reader.layout.tensors.get(binding.tensor)
        if spec is None or spec.shape != binding.shape or spec.dtype not in FLOATS:
            self.found.unproven[binding.tensor] = _misfit(spec, binding.shape)
            return
        try:
            expected = as_stored(self.oracle.expected(binding), dtype=spec.dtype)
        except NoReferenceError as error:
            self.found.unproven[binding.tensor] = str(error)
            return
        result = self._measured(binding, expected=expected, pool=pool)
        if result.wrong and not result.infinite and (loose := self._loose(binding, expected)) is not None:
            again = self._measured(binding, expected=loose, pool=pool, again=True)
            if not again.wrong:
                self.found.rounded.append(self._cause(result, binding))
                result = again
        self.found.add_measure(result)

    def _loose(self, binding: Binding, expected: Expression) -> Expression | None:
        """The bound of PEFT's own merge, for a merge that is not ours, where it is another one."""
        exact = expected.planned if isinstance(expected, Stored) else expected
        if not self.foreign or not isinstance(exact, Formula | Evaluated):
            return None
        loose = as_peft(exact, method=binding.method, base=self.oracle.origin(binding))
        return None if loose is exact else as_stored(loose, dtype=expected.dtype)

    def causes(self, bindings: dict[str, Binding]) -> None:
        """Finds out why changed tensors are wrong."""
        found = [self._cause(m, bindings[m.name]) for m in self.found.measures if m.wrong]
        shapes = {binding.tensor: binding.shape for binding in bindings.values()}
        self.found.causes = exchanged(
            found, shapes=shapes, is_at=lambda name, other: self._holds(name, bindings[other])
        )

    def _holds(self, name: str, other: Binding) -> bool:
        """Whether a tensor holds what belongs into another one, in the rows that are looked at."""
        merged = FileRows(self.reader, name)
        expected = as_stored(self.oracle.expected(other), dtype=merged.dtype)
        return holds(merged, expected, index=self._index(other, merged.shape))

    def _cause(self, result: Measure, binding: Binding) -> Cause:
        merged = FileRows(self.reader, binding.tensor)
        expected = as_stored(self.oracle.expected(binding), dtype=merged.dtype)
        index = self._index(binding, merged.shape)
        origin = self.oracle.origin(binding)
        look = look_again(binding.tensor, merged, index=index, expected=expected, origin=origin)
        return cause_of(look, measure=result, binding=binding, config=self.oracle.plan.adapter_config)

    def _index(self, binding: Binding, shape: tuple[int, int]) -> np.ndarray:
        """The rows to look at."""
        # Methods without a formula may change a few rows only, and their whole value is there: it is compared.
        return sample(binding.tensor, shape, thorough=self.thorough or binding.method not in METHODS)

    def _measured(
        self, binding: Binding, *, expected: Expression, pool: ThreadPoolExecutor, again: bool = False
    ) -> Measure:
        merged = FileRows(self.reader, binding.tensor)
        origin = self.oracle.origin(binding)
        index = self._index(binding, merged.shape)
        rows, columns = merged.shape
        sampled = len(index) < rows
        expected.rows(index[:1])  # what all rows share is made once, not by every thread
        size = self.reader.layout.tensors[binding.tensor].size

        def part(first: int) -> Measure:
            last = min(first + step, rows)
            mine = index[np.searchsorted(index, first) : np.searchsorted(index, last)]
            if len(mine) < last - first:
                odd = _not_finite(merged, first=first, last=last)
                mine = np.union1d(mine, odd)
            return measure(
                binding.tensor, merged, index=mine, expected=expected, origin=origin, sampled=sampled
            )

        step = max(1, TASK // max(1, columns))
        result = Measure(binding.tensor, rows * columns, changed=origin is None)
        for first, seen in zip(range(0, rows, step), pool.map(part, range(0, rows, step)), strict=True):
            result.absorb(seen)
            if not again:
                self.progress.advance(size * (min(first + step, rows) - first) // rows)
        result.energies = energies(expected)
        return result

    def effect(self, bindings: dict[str, Binding]) -> None:
        """Where no row looked at has changed, looks at the others until one has."""
        if any(m.changed for m in self.found.measures):
            return
        for result in self.found.measures:
            origin = self.oracle.origin(bindings[result.name])
            if result.elements < result.total and origin is not None:
                result.changed = _differ(FileRows(self.reader, result.name), origin)
            if result.changed:
                return


def _comparable(old: str, new: str) -> bool:
    """Whether numbers of one dtype can be held against those of the other."""
    return old == new or (old in FLOATS and new in FLOATS)


def _misfit(spec: TensorSpec | None, shape: tuple[int, ...]) -> str:
    """Why a tensor cannot be compared."""
    if spec is None:
        return "missing"
    if spec.shape != shape:
        return f"{list(spec.shape)} instead of {list(shape)}"
    return f"{spec.dtype}, which cannot be compared"


def _not_finite(source: Source, *, first: int, last: int) -> np.ndarray:
    """The rows that hold NaN or infinity."""
    index = np.arange(first, last)
    raw = source.raw(index)
    return index[:0] if is_finite(raw, source.dtype) else index[[not is_finite(r, source.dtype) for r in raw]]


def _differ(merged: Source, origin: Source) -> bool:
    """Whether any element is another than the base's, rounded to the merged dtype."""
    rows, columns = merged.shape
    step = max(1, TASK // max(1, columns))
    for first in range(0, rows, step):
        index = np.arange(first, min(first + step, rows))
        base = narrow(widen(origin.raw(index), origin.dtype), merged.dtype)
        if not np.array_equal(widen(merged.raw(index), merged.dtype), widen(base, merged.dtype)):
            return True
    return False
