"""Row merges in processes of their own: threads of one interpreter would wait for each other at each small step.

The processes are forked from the merging one, so that nothing is imported or opened again, and write straight into the
shard's file. They get names and numbers through pipes, and end when these are closed: also when the parent is killed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from bot.errors import InternalError, RefusedError
from bot.merge.piece import Merger, Piece
from bot.records import Binding

WORTH_IT = 256 * 2**20  # bytes of changed tensors from which on forking pays


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """A process, and the ends of its pipes that are ours."""

    pid: int
    jobs: BinaryIO
    answers: BinaryIO


class Crew:
    """Some processes that merge pieces. `merge` may be called by as many threads as there are processes."""

    def __init__(self, merger: Merger, *, bindings: Sequence[Binding], count: int) -> None:
        self._merger = merger
        self._bindings = {b.tensor: b for b in bindings}
        self._pieces: tuple[str, list[Piece]] = ("", [])
        self.changed = False
        self._workers: list[_Worker] = []
        self._free: queue.Queue[_Worker] = queue.Queue()
        for _ in range(count):
            worker = self._start()
            self._workers.append(worker)
            self._free.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            with suppress(OSError):
                worker.jobs.close()
            if kind is not None:  # nobody may write any more when the files are given up
                os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            worker.answers.close()

    def merge(
        self, tensor: str, number: int, *, path: Path, position: int, dtype: str
    ) -> tuple[int, int, int]:
        """Has a piece merged and written: its first and last (exclusive) row, and how many bytes these are.

        `number` is the piece's in its tensor, which starts at byte `position` of the file `path`. Raises RefusedError
        and OSError as the piece does.
        """
        job = {"tensor": tensor, "number": number, "path": str(path), "position": position, "dtype": dtype}
        worker = self._free.get()
        try:
            with suppress(BrokenPipeError):  # it ended: there is no answer either
                worker.jobs.write(json.dumps(job).encode() + b"\n")
                worker.jobs.flush()
            answer = json.loads(worker.answers.readline() or b"{}")
        finally:
            self._free.put(worker)
        if "refused" in answer:
            sentence, advice, code = answer["refused"]
            raise RefusedError(sentence, advice=advice, code=code)
        if "failed" in answer:
            raise OSError(*answer["failed"])
        if "rows" not in answer:
            raise InternalError(
                f"The process that merged {tensor} ended.",
                advice="Report it, unless memory ran out.",
                code="worker-died",
            )
        self.changed = self.changed or answer["changed"]
        first, last, size = answer["rows"]
        return first, last, size

    def _start(self) -> _Worker:
        jobs, our_jobs = os.pipe()
        our_answers, answers = os.pipe()
        with warnings.catch_warnings():
            # A child of a process with threads must not need what they hold: it computes, reads and writes.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                for worker in self._workers:  # so that each pipe ends with the parent
                    worker.jobs.close()
                os.close(our_jobs)
                os.close(our_answers)
                self._work(jobs, answers)
            finally:
                os._exit(0)
        os.close(jobs)
        os.close(answers)
        return _Worker(pid=pid, jobs=os.fdopen(our_jobs, "wb"), answers=os.fdopen(our_answers, "rb"))

    def _work(self, jobs: int, answers: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with os.fdopen(jobs, "rb") as asked:
            for line in asked:
                os.write(answers, json.dumps(self._answer(json.loads(line))).encode() + b"\n")

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._merge(job)
        except RefusedError as error:
            return {"refused": [error.sentence, error.advice, error.code]}
        except OSError as error:
            return {"failed": [error.errno, error.strerror or str(error)]}

    def _merge(self, job: dict[str, Any]) -> dict[str, Any]:
        tensor = job["tensor"]
        if self._pieces[0] != tensor:
            binding = self._bindings[tensor]
            self._pieces = tensor, list(self._merger.pieces(binding, dtype=job["dtype"]))
        first = last = size = 0
        file = os.open(job["path"], os.O_WRONLY | os.O_CLOEXEC)
        try:
            for part in self._pieces[1][job["number"]].parts():
                view = part.data.reshape(-1).view("u1").data
                row = len(view) // max(1, part.last - part.first)
                first, last = (part.first if not size else first), part.last
                position = job["position"] + part.first * row
                while view:
                    done = os.pwrite(file, view, position)
                    view, position, size = view[done:], position + done, size + done
        finally:
            os.close(file)
        return {"rows": [first, last, size], "changed": self._merger.changed}
