"""What a merger gives the stream: pieces of merged tensors, made when the stream asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from bot.errors import RefusedError
from bot.records import Binding
from bot.weights.floats import Array

TASK = 2**20  # numbers that one thread takes at a time
BLOCK = (
    2**16
)  # numbers that are computed at a time: what one core's cache holds with all that is made of them


@dataclass(frozen=True, kw_only=True)
class Part:
    """Merged rows `first` to `last` (exclusive) of a tensor, in its dtype on disk. Valid until the next one is made."""

    first: int
    last: int
    data: Array


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Makes the parts of some rows. `alone`: not beside other pieces, and in their order."""

    parts: Callable[[], Iterator[Part]]
    alone: bool = False


class Merger(Protocol):
    """Merges one binding at a time."""

    @property
    def changed(self) -> bool:
        """Whether anything that was merged differs from the base."""

    def pieces(self, binding: Binding, *, dtype: str) -> Iterator[Piece]:
        """All pieces of the binding's tensor, in safetensors' `dtype`."""


def spans(first: int, last: int, *, columns: int, numbers: int) -> Iterator[tuple[int, int]]:
    """The rows `first` to `last` (exclusive) in spans of about so many numbers.

    They depend on the shape alone, so the merged bytes do not depend on the number of workers.
    """
    step = max(1, numbers // max(columns, 1))
    for start in range(first, last, step):
        yield start, min(start + step, last)


def overflow(name: str, *, dtype: str) -> RefusedError:
    """The refusal of a result that its dtype cannot hold."""
    return RefusedError(
        f"The merged {name} exceeds the range of {dtype}.",
        advice="Merge with --dtype bfloat16 or float32.",
        code="overflow",
    )


def not_finite(name: str) -> RefusedError:
    """The refusal of a result that is NaN or infinite before it is rounded."""
    return RefusedError(
        f"The merged {name} is not finite.",
        advice="Check base and adapter for NaN.",
        code="result-not-finite",
    )
