"""Rows of tensors in local safetensors files, read into memory of one's own: what is not asked for is not read."""

from __future__ import annotations

import itertools
import math
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from bot.weights.floats import RAW, Array
from bot.weights.header import TensorSpec
from bot.weights.layout import Layout


class RowReader:
    """Reads rows of float tensors, also from several threads. A tensor's rows are its first dimension."""

    def __init__(self, folder: Path, *, layout: Layout) -> None:
        self.folder = folder
        self.layout = layout
        self._starts = {shard.file: shard.header.data_start for shard in layout.shards}
        self._lock = threading.Lock()
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def shape(self, name: str) -> tuple[int, int]:
        """Rows, and numbers in each."""
        found = self.layout.tensors[name].shape
        return (found[0], math.prod(found[1:])) if found else (1, 1)

    def rows(self, name: str, first: int = 0, last: int | None = None, *, out: Array | None = None) -> Array:
        """Rows `first` to `last` (exclusive) as a matrix (rows, everything else), in the dtype on disk (see `RAW`).

        `out`: the memory to read into.
        Raises OSError when the file ends early: it was changed meanwhile.
        """
        spec = self.layout.tensors[name]
        count, columns = self.shape(name)
        last = count if last is None else min(last, count)
        result = np.empty((max(0, last - first), columns), dtype=RAW[spec.dtype]) if out is None else out
        self._fill(result.reshape(-1).view(np.uint8).data, spec=spec, at=first * columns * result.itemsize)
        return result

    def gather(self, name: str, index: Array) -> Array:
        """The rows of these numbers, ascending, as `rows` gives them; neighbours are read together."""
        spec = self.layout.tensors[name]
        columns = math.prod(spec.shape[1:])
        result = np.empty((len(index), columns), dtype=RAW[spec.dtype])
        view, size = result.reshape(-1).view(np.uint8).data, columns * result.itemsize
        breaks = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)] if len(index) else []
        file = self._descriptor(self.layout.files[name])
        start = self._starts[self.layout.files[name]] + spec.start
        for (first, last), row in zip(itertools.pairwise(breaks), index[breaks[:-1]].tolist(), strict=True):
            part, at = view[first * size : last * size], row * size
            if os.preadv(file, (part,), start + at) != len(part):
                self._fill(part, spec=spec, at=at)  # once more, in as many parts as it takes
        return result

    def _fill(self, view: memoryview, *, spec: TensorSpec, at: int) -> None:
        """Reads the tensor's bytes from `at` on until the view is full."""
        file = self.layout.files[spec.name]
        offset = self._starts[file] + spec.start + at
        while view:
            done = os.preadv(self._descriptor(file), [view], offset)
            if not done:
                raise OSError(f"{file} ended early: it was changed while it was read")
            view, offset = view[done:], offset + done

    def _descriptor(self, file: str) -> int:
        with self._lock:
            if file not in self._open:
                self._open[file] = os.open(self.folder / file, os.O_RDONLY | os.O_CLOEXEC)
            return self._open[file]
