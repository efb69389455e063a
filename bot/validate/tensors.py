"""The proof tensor by tensor: what the adapter does not touch is the base's, what it touches is base + delta."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bot.errors import MergeBotError
from bot.progress import Progress
from bot.records import Binding, Check, Plan
from bot.validate.copies import compare, place
from bot.validate.expected import expected_tensors
from bot.validate.measure import BINS, Measure, measure, median_ulp
from bot.validate.models import conv1d_modules
from bot.validate.oracle import Exact, Oracle
from bot.validate.quiet import few
from bot.validate.reference import NoReferenceError
from bot.validate.workers import workers
from bot.weights.files import LocalFiles
from bot.weights.header import FLOATS
from bot.weights.layout import Layout, read_layout
from bot.weights.reader import TensorReader
from bot.wording import size


@dataclass
class Found:
    """What was seen on the way through the tensors."""

    equal: int = 0
    equal_bytes: int = 0
    wrong_copies: list[str] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    infinite: list[str] = field(default_factory=list)


def check_tensors(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    base: Layout,
    adapter_folder: Path,
    progress: Progress,
    exact: Exact | None = None,
) -> list[Check]:
    """Checks `untouched`, `changed`, `finite` and `effect`."""
    try:
        layout = read_layout(LocalFiles(merged))
    except MergeBotError as error:
        return [Check(name="changed", verdict="failed", figure="", detail=error.sentence)]
    oracle = Oracle(
        plan,
        base_folder=base_folder,
        base=base,
        adapter_folder=adapter_folder,
        transposed=conv1d_modules(base_folder, plan.model_class),
        exact=exact,
    )
    found = Found()
    progress.begin("Checking tensors", total=layout.total_bytes)
    with oracle, TensorReader(merged, layout=layout) as reader, workers() as pool:
        _untouched(
            found, merged, layout=layout, plan=plan, base_folder=base_folder, base=base, progress=progress
        )
        for binding in sorted(plan.bindings, key=lambda b: (layout.files.get(b.tensor, ""), b.tensor)):
            _changed(found, binding, reader=reader, oracle=oracle, pool=pool, progress=progress)
    progress.end()
    return [_untouched_check(found), _changed_check(found, plan), _finite_check(found), _effect_check(found)]


def _untouched(
    found: Found,
    merged: Path,
    *,
    layout: Layout,
    plan: Plan,
    base_folder: Path,
    base: Layout,
    progress: Progress,
) -> None:
    """Compares every tensor that no binding makes with the base's, by bytes."""
    for name, expected in expected_tensors(plan, base=base).items():
        new, old = layout.tensors.get(name), base.tensors.get(name)
        if expected.touched or old is None:
            continue
        if new is None or new.shape != old.shape or new.dtype != expected.dtype:
            found.wrong_copies.append(f"{name} ({'missing' if new is None else 'shape or dtype differs'})")
            continue
        before = place(base_folder, layout=base, spec=old)
        after = place(merged, layout=layout, spec=new)
        wrong, infinite = compare(before, after, old=old, new=new, progress=progress)
        if infinite:
            found.infinite.append(f"{name} ({infinite} elements)")
        if wrong:
            found.wrong_copies.append(f"{name} ({wrong} bytes differ)")
        else:
            found.equal, found.equal_bytes = found.equal + 1, found.equal_bytes + new.size


def _changed(
    found: Found,
    binding: Binding,
    *,
    reader: TensorReader,
    oracle: Oracle,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    """Measures one changed tensor against its reference."""
    spec = reader.layout.tensors.get(binding.tensor)
    if spec is None or spec.shape != binding.shape or spec.dtype not in FLOATS:
        found.unproven.append(f"{binding.tensor}: {'missing' if spec is None else 'shape or dtype differs'}")
        return
    try:
        formula = oracle.formula(binding)
    except NoReferenceError as error:
        found.unproven.append(f"{binding.tensor}: {error}")
        return
    if formula.dtype != spec.dtype:
        found.unproven.append(f"{binding.tensor}: {spec.dtype} instead of {formula.dtype}")
        return
    base = oracle.base(binding.source or binding.tensor)
    merged = reader.read(binding.tensor)
    result = measure(binding.tensor, merged, formula=formula, base=base, pool=pool, progress=progress)
    found.measures.append(result)
    if result.infinite:
        found.infinite.append(f"{binding.tensor} ({result.infinite} elements)")


def _untouched_check(found: Found) -> Check:
    count, wrong = found.equal + len(found.wrong_copies), found.wrong_copies
    detail = (
        f"Not the base's: {few(wrong)}."
        if wrong
        else "Every tensor that the adapter leaves alone is the base's."
    )
    figure = f"{found.equal:,} of {count:,} equal, {size(found.equal_bytes)}"
    return Check(name="untouched", verdict="failed" if wrong else "passed", figure=figure, detail=detail)


def _changed_check(found: Found, plan: Plan) -> Check:
    """The changed tensors against the float64 reference."""
    wrong = sorted((m for m in found.measures if m.wrong), key=lambda m: -m.worst)
    right = len(found.measures) - len(wrong)
    figure = f"{right:,} of {len(plan.bindings):,} right"
    where = ""
    if found.measures:
        worst = max(found.measures, key=lambda m: m.worst)
        histogram = sum((m.histogram for m in found.measures), torch.zeros(BINS, dtype=torch.float64))
        figure += f"; median {median_ulp(histogram):.2f} ulp, worst error {_of_the_bound(worst.worst)}"
        where = f" Worst: {worst.name}."
    problems = [*(m.describe() for m in wrong), *found.unproven]
    if problems:
        more = f" And {len(problems) - 4} more." if len(problems) > 4 else ""
        return Check(
            name="changed", verdict="failed", figure=figure, detail=". ".join(problems[:4]) + "." + more
        )
    detail = f"Every changed tensor is base + adapter in float64, rounded once.{where}"
    return Check(name="changed", verdict="passed", figure=figure, detail=detail)


def _of_the_bound(share: float) -> str:
    """An error by what is allowed, which is a rounding to the tensor's dtype and what float32 can lose before it."""
    much = f"{share:.0%} of" if share <= 1 else f"{share:.3g} times"
    return f"{much} what float32 and one rounding allow"


def _finite_check(found: Found) -> Check:
    bad, count = found.infinite, found.equal + len(found.wrong_copies) + len(found.measures)
    detail = f"NaN or infinite where base + adapter is not: {few(bad)}." if bad else "No overflow and no NaN."
    figure = f"{len(bad):,} of {count:,} not finite"
    return Check(name="finite", verdict="failed" if bad else "passed", figure=figure, detail=detail)


def _effect_check(found: Found) -> Check:
    """A merge that changed nothing has a name of its own."""
    changed = [m for m in found.measures if m.changed]
    total = sum(m.base_square for m in found.measures)
    share = (sum(m.change_square for m in found.measures) / total) ** 0.5 if total else 0.0
    largest = max(changed, key=lambda m: m.relative_change, default=None)
    if largest is None:
        detail = "Merged equals base: no tensor was changed, or the delta is lost in the dtype's rounding."
        return Check(name="effect", verdict="failed", figure="0", detail=detail)
    figure = f"{len(changed):,} of {len(found.measures):,} tensors changed, delta/base {share:.3g}"
    detail = f"Largest relative change {largest.relative_change:.3g} in {largest.name}."
    return Check(name="effect", verdict="passed", figure=figure, detail=detail)
