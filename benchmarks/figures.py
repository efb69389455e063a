"""From samples to figures: medians, spreads, and ratios within a round. Also what the project requires of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.measure import Sample
from benchmarks.subjects import CHECKED, DURABLE, LOOKED, MERGE, PEFT

Runs = dict[str, list[Sample]]  # by subject; the n-th sample of each belongs to the n-th round


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A median, and between what it varied."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        """The figure of some values."""
        return cls(median=median(values), low=min(values), high=max(values))


def wall(sample: Sample) -> float:
    """Seconds from start to end."""
    return sample.wall


def cpu(sample: Sample) -> float:
    """Seconds of all cores together."""
    return sample.user + sample.system


def anonymous(sample: Sample) -> float:
    """Bytes of peak anonymous memory."""
    return float(sample.anonymous)


def resident(sample: Sample) -> float:
    """Bytes of peak resident memory, mapped files included."""
    return float(sample.resident)


QUANTITIES: dict[str, Callable[[Sample], float]] = {f.__name__: f for f in (wall, cpu, anonymous, resident)}


def figure(runs: Runs, subject: str, quantity: str) -> Figure:
    """One quantity of one subject over all rounds."""
    return Figure.of([QUANTITIES[quantity](s) for s in runs[subject]])


def ratio(runs: Runs, subject: str, reference: str) -> Figure | None:
    """Wall time as a multiple of the reference's in the same round: what slows the machine slows both."""
    if reference not in runs:
        return None
    pairs = zip(runs[subject], runs[reference], strict=True)
    return Figure.of([s.wall / r.wall for s, r in pairs])


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A requirement: of a subject, on these shapes and adapters, either a ratio to another or bytes of memory."""

    subject: str
    shapes: tuple[str, ...]
    adapters: tuple[str, ...]
    most: float
    reference: str | None = None

    def verdict(self, runs: Runs) -> tuple[str, bool] | None:
        """The requirement as a sentence and whether it is met; None when it was not measured."""
        if self.subject not in runs:
            return None
        if self.reference is None:
            peak = figure(runs, self.subject, "anonymous").high / 1e9
            return f"anonymous memory {peak:.2f} GB, at most {self.most:g} GB", peak <= self.most
        found = ratio(runs, self.subject, self.reference)
        if found is None:
            return None
        text = f"{found.median:.2f} × the time of {self.reference}, at most {self.most:.3g} ×"
        return text, found.median <= self.most


_ALL = ("all-linear", "attention", "dora")
LIMITS = (
    Limit(subject=MERGE, shapes=("1b",), adapters=("all-linear",), reference=PEFT, most=1 / 7),
    Limit(subject=MERGE, shapes=("3b",), adapters=("all-linear",), reference=PEFT, most=1 / 6),
    Limit(subject=MERGE, shapes=("1b", "3b"), adapters=("dora",), reference=PEFT, most=1 / 5),
    Limit(subject=MERGE, shapes=("1b", "3b"), adapters=("attention", "pissa"), reference=PEFT, most=1),
    Limit(subject=MERGE, shapes=("1b",), adapters=_ALL, reference=DURABLE, most=2.5),
    Limit(subject=MERGE, shapes=("3b",), adapters=_ALL, reference=DURABLE, most=1.6),
    Limit(subject=MERGE, shapes=("1b", "3b"), adapters=_ALL, most=0.5),
    Limit(subject=MERGE, shapes=("1b", "3b"), adapters=("pissa",), most=1.5),
    Limit(subject=CHECKED, shapes=("1b", "3b"), adapters=_ALL, reference=LOOKED, most=1.3),
)
REFERENCES = (DURABLE, PEFT)
