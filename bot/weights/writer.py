"""Writes safetensors shards tensor by tensor; what is only copied moves inside the kernel."""

from __future__ import annotations

import os
from io import BufferedReader, BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from bot.weights.header import Header

CHUNK = 64 * 2**20


class ShardWriter:
    """Writes one shard: the header first, then each tensor of the header, in its order."""

    def __init__(self, path: Path, *, header: Header) -> None:
        self.path = path
        self.header = header
        self._next = 0
        self._file: BufferedWriter = path.open("xb", buffering=0)  # type: ignore[assignment]  # raw, unbuffered
        self._write(len(header.raw).to_bytes(8, "little") + header.raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Writes a tensor; it must be the header's next one and fit its dtype and shape (checked by its bytes)."""
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        self._advance(name, size=len(data))
        self._write(data)

    def copy(self, name: str, source: BufferedReader, *, offset: int, size: int) -> None:
        """Copies a tensor's bytes from an open file without passing them through this process."""
        self._advance(name, size=size)
        done = 0
        while done < size:
            count = _copy_range(source.fileno(), self._file.fileno(), offset + done, min(CHUNK, size - done))
            if count == 0:
                raise OSError(f"{source.name} ended early: it was changed while it was read")
            done += count

    def _advance(self, name: str, *, size: int) -> None:
        spec = self.header.tensors[self._next]
        if spec.name != name or spec.size != size:
            raise ValueError(f"{name} ({size} bytes) written where {spec.name} ({spec.size} bytes) belongs")
        self._next += 1

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _finish(self) -> None:
        if self._next != len(self.header.tensors):
            raise ValueError(f"{self.path.name} lacks {self.header.tensors[self._next].name}")
        os.fsync(self._file.fileno())


def _copy_range(source: int, target: int, offset: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset)
    except OSError:  # another file system, or one that cannot: sendfile moves bytes between any two files
        return os.sendfile(target, source, offset, count)
