"""Writes a safetensors shard, in any order and from several threads; what is only copied moves inside the kernel."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from bot.weights.floats import Array
from bot.weights.follower import Follower
from bot.weights.header import Header, TensorSpec

CHUNK = (
    4 * 2**20
)  # bytes that are copied at a time: a file has one writer at a time, and others wait meanwhile


class ShardWriter:
    """One shard: its header and size at once, then the bytes of each tensor, each exactly once.

    After it was left without an error, the file is on the disk, and `digest` its SHA-256, if it was asked for. With
    `let_go` it is not kept in memory, but for its end.
    """

    def __init__(self, path: Path, *, header: Header, digest: bool = False, let_go: bool = False) -> None:
        self.path = path
        self.header = header
        self.digest: str | None = None
        self._missing = sum(t.size for t in header.tensors)
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _reserve(self._file, header.data_start + self._missing)
        except OSError:
            os.close(self._file)
            raise
        self._follower = Follower(self._file, digest=digest, let_go=let_go)
        self._put(memoryview(len(header.raw).to_bytes(8, "little") + header.raw), position=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.digest = self._follower.close(abandon=kind is not None)
            if kind is None:
                self._finish()
        finally:
            os.close(self._file)

    def write(self, spec: TensorSpec, data: Array, *, at: int = 0) -> None:
        """Writes part of a tensor, from its byte `at` on. `data` is as on disk."""
        view = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        if not 0 <= at <= at + len(view) <= spec.size:
            raise ValueError(f"{len(view)} bytes at {at} do not fit into the {spec.size} of {spec.name}")
        self._put(view, position=self.header.data_start + spec.start + at)
        self._account(len(view))

    def written(self, spec: TensorSpec, *, at: int, size: int) -> None:
        """Another process has written part of a tensor, `size` bytes from its byte `at` on."""
        if not 0 <= at <= at + size <= spec.size:
            raise ValueError(f"{size} bytes at {at} do not fit into the {spec.size} of {spec.name}")
        start = self.header.data_start + spec.start + at
        self._follower.advance(start, start + size)
        self._account(size)

    def copy(self, spec: TensorSpec, source: int, *, offset: int, size: int | None = None) -> None:
        """Copies bytes from an open file to where the tensor lies, without passing them through this process.

        `size` may span the tensors that follow, when they lie behind each other in both files.
        """
        size = spec.size if size is None else size
        position = self.header.data_start + spec.start
        done = 0
        while done < size:
            count = _copy_range(source, self._file, offset + done, position + done, min(CHUNK, size - done))
            if count == 0:
                raise OSError(
                    f"the file that {spec.name} is copied from ended early: it was changed meanwhile"
                )
            self._follower.advance(position + done, position + done + count)
            done += count
        self._account(size)

    def _put(self, view: memoryview, *, position: int) -> None:
        while view:
            count = os.pwrite(self._file, view, position)
            self._follower.advance(position, position + count)
            view, position = view[count:], position + count

    def _account(self, size: int) -> None:
        with self._lock:
            self._missing -= size

    def _finish(self) -> None:
        if self._missing:
            raise ValueError(f"{self.path.name} lacks {self._missing} bytes")
        os.fsync(self._file)


def _reserve(file: int, size: int) -> None:
    """Takes the space on the disk: a full one says so now, and writers need not wait for it to be found."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):  # file systems that cannot
            raise


def _copy_range(source: int, target: int, offset: int, position: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset, position)
    except OSError:  # another file system, or one that cannot; a full disk says so again below
        return os.pwrite(target, os.pread(source, min(count, 2**20), offset), position)
