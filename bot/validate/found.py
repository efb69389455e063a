"""What was seen on the way through the tensors, and the checks that it makes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bot.records import Check, Plan
from bot.validate.causes import Cause, told
from bot.validate.measure import BINS, Measure, median_ulp
from bot.validate.sample import EVERY
from bot.wording import counted, few, size

MOST = 4  # sentences in a detail


@dataclass
class Found:
    """What was seen. `proven` are the names of the tensors that were looked at as far as was asked for.

    `wrong_copies` and `unproven`: names of tensors and what is wrong with them; `causes`: of those that were held
    against their reference and are wrong; `rounded`: of those that are right by the bound of PEFT's own merge only.
    `digests`: the SHA-256 of files of the output, where they were made while these were written. `ours`: it is our own
    merge, not yet finished.
    """

    proven: set[str] = field(default_factory=set)
    equal: int = 0
    equal_bytes: int = 0
    wrong_copies: list[str] = field(default_factory=list)
    measures: list[Measure] = field(default_factory=list)
    unproven: dict[str, str] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)
    rounded: list[Cause] = field(default_factory=list)
    infinite: list[str] = field(default_factory=list)
    different: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    ours: bool = False

    def add_copy(self, name: str, *, bytes_: int, wrong: int, infinite: int, words: str = "") -> None:
        """Adds a tensor that was compared with the base's. `words` say what is wrong with it, where that is known."""
        self.proven.add(name)
        if infinite:
            self.infinite.append(f"{name} ({infinite} elements)")
        if wrong:
            self.different += 1
            self.wrong_copies.append(f"{name} ({words or f'{wrong} bytes differ'})")
        else:
            self.equal, self.equal_bytes = self.equal + 1, self.equal_bytes + bytes_

    def add_measure(self, measure: Measure) -> None:
        """Adds a changed tensor that was held against its reference."""
        self.proven.add(measure.name)
        self.measures.append(measure)
        if measure.infinite:
            self.infinite.append(f"{measure.name} ({measure.infinite} elements)")

    def checks(self, plan: Plan) -> list[Check]:
        """`untouched`, `effect`, `changed` and `finite`."""
        return [_untouched(self), _effect(self), _changed(self, plan), _finite(self)]


def _untouched(found: Found) -> Check:
    count, wrong = found.equal + len(found.wrong_copies), sorted(found.wrong_copies)
    detail = "Every tensor that the adapter leaves alone is the base's."
    if wrong:
        detail = f"Not the base's: {few(wrong)}."
    if found.different > max(1, count // 2):
        detail += " So many differ that this has another base, or was trained further."
    figure = f"{found.equal:,} of {count:,} equal, {size(found.equal_bytes)}"
    return Check(name="untouched", verdict="failed" if wrong else "passed", figure=figure, detail=detail)


def _changed(found: Found, plan: Plan) -> Check:
    """The changed tensors against the float64 reference."""
    wrong = sorted((m for m in found.measures if m.wrong), key=lambda m: (-m.worst, m.name))
    figure = f"{len(found.measures) - len(wrong):,} of {len(plan.bindings):,} right"
    where = ""
    if found.measures:
        worst = max(found.measures, key=lambda m: (m.worst, m.name))
        histogram = sum((m.histogram for m in found.measures), np.zeros(BINS, dtype=np.int64))
        figure += f" ({_looked_at(found)}); median {median_ulp(histogram):.2f} ulp"
        figure += f", worst error {_of_the_bound(worst.worst)}"
        where = f" Worst: {worst.name}."
    if wrong or found.unproven:
        problems = [*told(found.causes, total=len(plan.bindings)), *_unproven(found)]
        more = f" And {len(problems) - MOST} more." if len(problems) > MOST else ""
        detail = ". ".join(problems[:MOST]) + "." + more
        return Check(name="changed", verdict="failed", figure=figure, detail=detail)
    rows = "" if all(m.elements == m.total for m in found.measures) else " in every row looked at"
    detail = f"Every changed tensor is base + adapter in float64, {_roundings(found)}{rows}.{where}"
    return Check(name="changed", verdict="passed", figure=figure, detail=detail)


def _roundings(found: Found) -> str:
    """How the numbers were rounded."""
    if not found.rounded:
        return "rounded once"
    wrong, of = (sum(getattr(c, part) for c in found.rounded) for part in ("wrong", "elements"))
    worst = max(c.look.worst for c in found.rounded)
    kinds = " and ".join(sorted({c.look.dtype for c in found.rounded}))
    return (
        f"within the rounding of PEFT's own merge in {kinds}: {wrong:,} of {of:,} numbers of"
        f" {counted(len(found.rounded), 'tensor')} were rounded more than once, by up to {worst:.2f} ulp off"
    )


def _unproven(found: Found) -> list[str]:
    """One sentence for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in sorted(found.unproven.items()):
        reasons.setdefault(reason, []).append(name)
    return [f"{few(names)}: {reason}" for reason, names in reasons.items()]


def _looked_at(found: Found) -> str:
    """How much was held against the reference."""
    looked, total = sum(m.elements for m in found.measures), sum(m.total for m in found.measures)
    if looked == total:
        return "all numbers"
    return f"1 in {EVERY} rows, {_count(looked)} of {_count(total)} numbers"


def _count(number: int) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)


def _of_the_bound(share: float) -> str:
    """An error by what is allowed, which is a rounding to the tensor's dtype and what float32 can lose before it."""
    much = f"{share:.0%} of" if share <= 1 else f"{share:.3g} times"
    return f"{much} what float32 and one rounding allow"


def _finite(found: Found) -> Check:
    bad, count = sorted(found.infinite), found.equal + len(found.wrong_copies) + len(found.measures)
    detail = f"NaN or infinite where base + adapter is not: {few(bad)}." if bad else "No overflow and no NaN."
    figure = f"{len(bad):,} of {count:,} not finite"
    return Check(name="finite", verdict="failed" if bad else "passed", figure=figure, detail=detail)


def _effect(found: Found) -> Check:
    """A merge that changed nothing has a name of its own."""
    if not found.measures:
        detail = "No changed tensor could be compared with the base's."
        return Check(name="effect", verdict="skipped", figure="", detail=detail)
    changed = [m for m in found.measures if m.changed]
    total = sum(m.base_square for m in found.measures)
    share = (sum(m.change_square for m in found.measures) / total) ** 0.5 if total else 0.0
    largest = max(changed, key=lambda m: (m.relative_change, m.name), default=None)
    if largest is None:
        detail = "Merged equals base: no tensor was changed, or the delta is lost in the dtype's rounding."
        return Check(name="effect", verdict="failed", figure="0", detail=detail)
    figure = f"{len(changed):,} of {len(found.measures):,} tensors changed, delta/base {share:.3g}"
    detail = f"Largest relative change {largest.relative_change:.3g} in {largest.name}."
    return Check(name="effect", verdict="passed", figure=figure, detail=detail)
