"""Steps that are forked: as those that are started, with a worker that has its imports done and no token in reach."""

import asyncio
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bot.errors import HostError, MergeError
from bot.isolation import forking
from bot.isolation.forking import ForkServer, fork_server
from bot.isolation.forkserver import LARGEST
from bot.jobs.process import Bounds, Room
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from tests.tiny.adapters import LORA_VARIANTS

SECRET = "hf_forkedTokenThatNobodyMaySee"


@pytest.fixture(scope="module")
def forks():
    """A fork server that is ready."""
    with closing(ForkServer()) as server:
        deadline = time.monotonic() + 120
        while not server._is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield server


@pytest.fixture
def room(tmp_path, forks):
    (tmp_path / "scratch").mkdir()
    lines = []
    settings = Settings(isolation="process", read_token=SECRET, write_token=SECRET)
    made = Room(
        settings=settings, scratch=tmp_path / "scratch", tell=lambda _: None, log=lines.append, forks=forks
    )
    return made, lines


@pytest.fixture
def asked(adapter_on, tmp_path):
    base, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    to = Destination(kind="folder", location=str(tmp_path / "scratch" / "merged"))
    return MergeRequest(adapter=str(adapter), base=str(base), destination=to, validation="structure")


def steps(server):
    """The fork server's children: steps."""
    found = subprocess.run(
        ["pgrep", "-P", str(server._process.pid)], check=False, capture_output=True, text=True
    )
    return [int(pid) for pid in found.stdout.split()]


def below(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], check=False, capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]


async def begun(room, asked, *, seconds=60.0):
    """The task of a merge, its step's process, and the worker below that."""
    task = asyncio.create_task(room.do("merge", asked))
    deadline = time.monotonic() + seconds
    while not (found := [(s, w) for s in steps(room.forks) for w in below(s)]):
        assert not task.done(), task
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return task, *found[0]


def test_a_forked_merge_is_behind_the_same_walls(room, asked, forks):
    here, _ = room
    _, report = asyncio.run(here.do("merge", asked))
    assert report.verdict == "passed"
    assert report.isolation.startswith("a process of its own without tokens")
    assert steps(forks) == []


@pytest.mark.slow
def test_it_gives_the_same_bytes_as_a_merge_that_is_started(room, asked):
    here, _ = room
    folders = []
    for name, forks in (("forked", here.forks), ("started", None)):
        folder = here.scratch / name
        into = replace(asked, destination=Destination(kind="folder", location=str(folder)))
        asyncio.run(replace(here, forks=forks).do("merge", into))
        folders.append({f.name: f.read_bytes() for f in folder.glob("*.safetensors*")})
    assert folders[0]
    assert folders[0] == folders[1]


def test_no_token_is_with_the_server_or_with_the_worker(room, asked):
    here, _ = room

    async def looked():
        task, step, worker = await begun(here, asked)
        deadline = time.monotonic() + 30
        # The look would see a token if there were one; and the worker is on its own.
        while SECRET not in environment(step) or sockets(worker):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        for pid in (worker, step):  # it would have ended before we have seen it all
            os.kill(pid, signal.SIGSTOP)
        others = (here.forks._process.pid, worker)
        found = [SECRET in environment(pid) or holds(pid, SECRET) for pid in (step, *others)]
        for pid in (worker, step):
            os.kill(pid, signal.SIGCONT)
        await task
        return found

    assert asyncio.run(looked()) == [True, False, False]


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_text()


def holds(pid, text):
    """Whether it is anywhere in the memory of a process that is its own."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *rest = line.split()
            begin, end = (int(number, 16) for number in place.split("-"))
            if "w" not in rights or rest[-1] in {"[vvar]", "[vsyscall]"}:
                continue
            memory.seek(begin)
            with suppress(OSError):
                if text.encode() in memory.read(end - begin):
                    return True
    return False


def sockets(pid):
    """Those that a process has open: by one of the server's it could ask for a process without walls."""
    held = [str(handle.readlink()) for handle in Path(f"/proc/{pid}/fd").iterdir()]
    return [to for to in held if to.startswith("socket:")]


def test_killed_with_all_its_might_it_leaves_no_worker(room, asked):
    here, _ = room

    async def killed():
        task, step, worker = await begun(here, asked)
        os.kill(step, signal.SIGKILL)
        with pytest.raises(MergeError) as error:
            await task
        return error.value, worker

    error, worker = asyncio.run(killed())
    assert error.code == "worker-died"
    assert "SIGKILL" in error.sentence
    deadline = time.monotonic() + 10
    while is_running(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    """Not so when it is gone, or waits for its parent to notice."""
    with suppress(OSError):
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


def test_cancelled_it_is_gone_within_seconds(room, asked, forks):
    here, _ = room

    async def cancelled():
        task, *_ = await begun(here, asked)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    assert asyncio.run(cancelled()) < 6
    deadline = time.monotonic() + 10
    while steps(forks):  # one that was being forked notices that nobody is there
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("turns", range(12))
def test_called_off_in_whatever_moment_of_its_start_it_is_called_off(turns, tmp_path):
    """The answer may just be there: `asyncio.wait_for` of Python 3.11 goes on then as if nothing had been said."""
    server, ready = ForkServer(), threading.Event()
    server._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server._process = subprocess.Popen(["sleep", "60"])
    server._ready = True

    def answers():
        _, (*its, last), *_ = socket.recv_fds(theirs, LARGEST, 5)
        for handle in its:
            os.close(handle)
        with socket.socket(fileno=last) as reply:
            reply.send(b"1")
            ready.set()

    async def called_off():
        with (tmp_path / "pipe").open("w") as pipe:
            task = asyncio.create_task(server.start([], environment={}, pipe=pipe.fileno()))
            while not ready.is_set():  # noqa: ASYNC110 - an event would take turns that are to be counted
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            return task.cancel(), (await asyncio.gather(task, return_exceptions=True))[0]

    with closing(server), theirs:
        thread = threading.Thread(target=answers)
        thread.start()
        was, told = asyncio.run(called_off())
        thread.join()
    assert was == isinstance(told, asyncio.CancelledError)


def test_its_files_have_the_limit_of_the_step(room, asked):
    """The worker is forked before the step limits itself."""
    here, _ = room
    with pytest.raises(MergeError):
        asyncio.run(here.do("merge", asked, bounds=Bounds(file=1 << 16)))


def test_without_a_sign_of_life_it_ends_itself(room, asked, forks):
    here, _ = room
    once = iter([True])
    deaf = replace(here, alive=lambda: next(once, False))
    with pytest.raises(HostError) as error:
        asyncio.run(deaf.do("merge", asked, bounds=Bounds(patience=0.2)))
    assert error.value.code == "lease-lost"
    assert steps(forks) == []


@pytest.mark.slow
def test_a_step_goes_on_when_the_server_dies_and_the_next_has_another(tmp_path, asked):
    with closing(ForkServer()) as forks:
        (tmp_path / "scratch").mkdir()
        here = Room(
            settings=Settings(),
            scratch=tmp_path / "scratch",
            tell=lambda _: None,
            log=lambda _: None,
            forks=forks,
        )

        async def orphaned():
            await asyncio.to_thread(ready, forks)
            task, *_ = await begun(here, asked)
            forks._process.kill()
            return await task

        _, report = asyncio.run(orphaned())
        assert report.verdict == "passed"
        assert not forks._is_ready()  # it is started anew
        ready(forks)


def ready(server):
    while not server._is_ready():
        time.sleep(0.1)


@pytest.mark.slow
def test_after_a_rest_the_memory_is_given_back():
    with closing(ForkServer(idle=0.5)) as forks:
        ready(forks)
        forks._process.wait(30)
        assert not forks._is_ready()  # it is started anew


def test_before_it_is_ready_nothing_waits_for_it(tmp_path, asked):
    with closing(ForkServer()) as forks:
        started = asyncio.run(forks.start(["-c", ""], environment={}, pipe=1))
        assert started is None
        assert forks._process.poll() is None


def test_where_a_gpu_is_near_nothing_is_forked(monkeypatch):
    assert fork_server(Settings(isolation="process"))
    assert fork_server(Settings(isolation="none")) is None
    monkeypatch.setattr(forking, "has_driver", lambda: True)
    assert fork_server(Settings(isolation="process")) is None
