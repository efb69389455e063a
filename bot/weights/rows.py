"""Rows of tensors in local safetensors files, read into memory of one's own: what is not asked for is not read."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from bot.weights.floats import RAW, Array
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
        file = self.layout.files[name]
        offset = self._starts[file] + spec.start + first * columns * result.itemsize
        view = result.reshape(-1).view(np.uint8).data
        while view:
            done = os.preadv(self._descriptor(file), [view], offset)
            if not done:
                raise OSError(f"{file} ended early: it was changed while it was read")
            view, offset = view[done:], offset + done
        return result

    def _descriptor(self, file: str) -> int:
        with self._lock:
            if file not in self._open:
                self._open[file] = os.open(self.folder / file, os.O_RDONLY | os.O_CLOEXEC)
            return self._open[file]
