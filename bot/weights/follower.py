"""Works on a file behind those who write it: starts its way to the disk early, and takes its SHA-256.

Both would else come after the last byte, and take as long as the merge: here they take the time in which the cores
or the disk would wait. What is on the disk may leave the memory: the next block then takes the place that it had there,
which costs less than a new one and pushes nothing else out.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import threading
from collections.abc import Callable

FLUSH = 64 * 2**20  # bytes that may wait for the disk: at the end one waits for these
CHUNK = 4 * 2**20


class Follower:
    """Follows one open file, which must be readable. `advance` may be called by several threads.

    `let_go`: what was written and digested is not kept in memory.
    """

    def __init__(self, file: int, *, digest: bool, let_go: bool = False) -> None:
        self._file = file
        self._let_go = let_go
        self._sha256 = hashlib.sha256()
        self._wanted = digest
        self._news = threading.Condition()
        self._written = self._flushed = 0
        self._prefix = self._digested = 0
        self._ahead: list[tuple[int, int]] = []  # what was written behind a gap, as a heap
        self._closed = self._abandoned = False
        self._error: OSError | None = None
        jobs = (self._flush, self._digest) if digest else (self._flush,)
        self._threads = [threading.Thread(target=self._guarded, args=(job,), daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()

    def advance(self, start: int, end: int) -> None:
        """Bytes `start` to `end` (exclusive) were written, for the first time."""
        with self._news:
            self._written += end - start
            heapq.heappush(self._ahead, (start, end))
            while self._ahead and self._ahead[0][0] == self._prefix:
                self._prefix = heapq.heappop(self._ahead)[1]
            self._news.notify_all()

    def close(self, *, abandon: bool = False) -> str | None:
        """Waits for the followers, if need be until all is digested. Returns the SHA-256, if one was asked for.

        `abandon`: the file is given up, nothing more is done with it. Raises OSError as it came from the disk.
        """
        with self._news:
            self._closed, self._abandoned = True, abandon
            self._news.notify_all()
        for thread in self._threads:
            thread.join()
        if self._error is not None and not abandon:
            raise self._error
        return self._sha256.hexdigest() if self._wanted and not abandon else None

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except OSError as error:
            self._error = error

    def _flush(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._written - self._flushed >= FLUSH)
                if self._closed:
                    return
                self._flushed, done = self._written, self._prefix
            os.fdatasync(self._file)
            if self._let_go:
                size = min(done, self._digested) if self._wanted else done
                if size:  # 0 would be all
                    os.posix_fadvise(self._file, 0, size, os.POSIX_FADV_DONTNEED)

    def _digest(self) -> None:
        while not self._abandoned:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._prefix - self._digested >= CHUNK)
                ready = min(CHUNK, self._prefix - self._digested)
            if not ready:
                return
            data = os.pread(self._file, ready, self._digested)
            if not data:
                raise OSError("the file ended early: it was changed while it was written")
            self._sha256.update(data)
            self._digested += len(data)
