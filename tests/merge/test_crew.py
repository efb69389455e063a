"""Processes that merge rows: what goes wrong in one is raised here, and none outlives its merge."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bot.errors import InternalError, RefusedError
from bot.merge.crew import Crew
from bot.merge.piece import Part, Piece, overflow
from bot.records import Binding

BINDING = Binding(
    tensor="w", source="w", parameter="w", method="lora", adapter=(), shape=(4, 2), dtype="F32", scale=1.0
)


class Rows:
    """Two pieces of two rows; what they do is up to the test."""

    changed = True

    def __init__(self, parts) -> None:
        self._parts = parts

    def pieces(self, binding: Binding, *, dtype: str) -> Iterator[Piece]:
        for first in (0, 2):
            yield Piece(parts=lambda first=first: self._parts(first))


def ones(first: int) -> Iterator[Part]:
    yield Part(first=first, last=first + 1, data=np.full((1, 2), first + 1, np.float32))
    yield Part(first=first + 1, last=first + 2, data=np.full((1, 2), first + 2, np.float32))


def refused(first: int) -> Iterator[Part]:
    yield from ones(first)
    raise overflow("w", dtype="F32")


def full(first: int) -> Iterator[Part]:
    raise OSError(28, "No space left on device")
    yield from ones(first)


def killed(first: int) -> Iterator[Part]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield from ones(first)


def ask(crew: Crew, path: Path, number: int = 0) -> tuple[int, int, int]:
    return crew.merge("w", number, path=path, position=8, dtype="F32")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "w").write_bytes(bytes(40))
    return tmp_path / "w"


def test_pieces_are_written_where_they_belong(path):
    with Crew(Rows(ones), bindings=[BINDING], count=2) as crew:
        assert [ask(crew, path, 1), ask(crew, path, 0)] == [(2, 4, 16), (0, 2, 16)]
        assert crew.changed
    assert path.read_bytes() == bytes(8) + np.repeat([1, 2, 3, 4], 2).astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [
        (refused, RefusedError, "exceeds the range"),
        (full, OSError, "No space left"),
        (killed, InternalError, "ended"),
    ],
)
def test_what_goes_wrong_is_raised_and_nobody_is_left(path, parts, kind, words):
    with pytest.raises(kind, match=words), Crew(Rows(parts), bindings=[BINDING], count=2) as crew:  # noqa: PT012
        pids = [worker.pid for worker in crew._workers]
        ask(crew, path)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_one_who_has_ended_is_no_broken_pipe(path):
    with Crew(Rows(killed), bindings=[BINDING], count=1) as crew:
        for _ in range(2):
            with pytest.raises(InternalError) as error:
                ask(crew, path)
            assert error.value.code == "worker-died"


def test_a_worker_ends_with_its_parent(path):
    """The parent is killed: its pipes close, and no worker waits for it."""
    ours, theirs = os.pipe()
    parent = os.fork()
    if parent == 0:
        crew = Crew(Rows(ones), bindings=[BINDING], count=3)
        os.write(theirs, " ".join(str(w.pid) for w in crew._workers).encode())
        signal.pause()
    os.close(theirs)
    pids = [int(text) for text in os.read(ours, 1000).split()]
    assert len(pids) == 3
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert os.read(ours, 1) == b""  # every copy of the other end is closed, so all have ended
    os.close(ours)
