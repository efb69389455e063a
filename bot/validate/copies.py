"""Compares a tensor that was only copied with its original: by bytes, or rounded to the dtype that was asked for."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bot.progress import Progress
from bot.weights.floats import RAW, Array, narrow, widen
from bot.weights.header import TensorSpec
from bot.weights.layout import Layout

WINDOW = 16 * 2**20  # bytes that are mapped at a time
BLOCK = 2**19  # bytes that are compared at a time: what the cache holds


@dataclass(frozen=True)
class Place:
    """Bytes of a file, from `start` to `end`."""

    path: Path
    start: int
    end: int


def place(folder: Path, *, layout: Layout, spec: TensorSpec) -> Place:
    """Where a tensor's bytes lie."""
    shard = next(s for s in layout.shards if s.file == layout.files[spec.name])
    start = shard.header.data_start
    return Place(folder / shard.file, start + spec.start, start + spec.end)


def compare(
    before: Place, after: Place, *, old: str, new: str, progress: Progress | None = None
) -> tuple[int, int]:
    """How many bytes differ from the base's (rounded to the new dtype), and how many elements became infinite.

    `old` and `new` are their dtypes. Raises OSError when a file is shorter than it was.
    """
    wrong = infinite = 0
    whole, other = (RAW[old].itemsize, RAW[new].itemsize) if old != new else (1, 1)
    pieces = _pieces(before, size=BLOCK * whole), _pieces(after, size=BLOCK * other)
    for one, two in zip(*pieces, strict=True):
        expected = one
        if old != new:
            expected, overflow = _rounded(one, old=old, new=new)
            infinite += overflow
        wrong += _differing(expected, two)
        if progress:
            progress.advance(len(two))
    return wrong, infinite


def _pieces(where: Place, *, size: int) -> Iterator[Array]:
    """The bytes in pieces of `size`, mapped, not copied: a window at a time, so that the memory counted is small."""
    window = max(1, WINDOW // size) * size
    with where.path.open("rb") as file:
        for start in range(where.start, where.end, window):
            end = min(start + window, where.end)
            if os.fstat(file.fileno()).st_size < end:  # to touch what is mapped behind the end would kill us
                raise OSError(f"{where.path} ended early: it was changed while it was read")
            first = start - start % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(file.fileno(), end - first, prot=mmap.PROT_READ, offset=first)
            part = np.frombuffer(mapped, dtype=np.uint8)[start - first :]
            for at in range(0, len(part), size):
                yield part[at : at + size]


def _rounded(piece: Array, *, old: str, new: str) -> tuple[Array, int]:
    """The piece's numbers rounded to the new dtype, as bytes, and how many of them became infinite."""
    before = widen(np.frombuffer(piece.tobytes(), dtype=RAW[old]), old)
    after = narrow(before, new)
    overflow = np.isfinite(before) & ~np.isfinite(widen(after, new))
    return after.view(np.uint8), int(np.count_nonzero(overflow))


def _differing(one: Array, other: Array) -> int:
    """How many bytes differ. Eight are compared at a time; as they may lie askew, the processor does the rest."""
    whole = len(one) // 8 * 8
    words = (np.frombuffer(side[:whole], dtype=np.uint64) for side in (one, other))
    if np.equal(*words).all() and np.array_equal(one[whole:], other[whole:]):
        return 0
    return int(np.count_nonzero(one != other))
