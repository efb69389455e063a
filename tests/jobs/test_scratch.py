"""Scratch space: set aside, waited for, never more than allowed, and empty in the end."""

import asyncio
import errno
import subprocess
import sys

import pytest

from bot.errors import MergeError
from bot.jobs.scratch import Needs, Scratch

KB = 1000
DRAINED, KILLED = f"{'d' * 32}-1", f"{'e' * 32}-2.13"  # a make, and a shard of one


def scratch(tmp_path, *, most=100 * KB):
    return Scratch(tmp_path / "scratch", most=most, spare=0)


def names(tmp_path):
    return sorted(p.name for p in (tmp_path / "scratch").iterdir() if not p.name.startswith("."))


async def held(space, name, needed, told=None, *, until=None, keeps=False):
    waits = (told if told is not None else []).append
    async with space.reserved(name, needs=Needs(size=needed), waits=waits, keeps=lambda: keeps) as (
        folder,
        most,
    ):
        assert folder.is_dir()
        (folder / "file").write_bytes(b"x")
        if until is not None:
            await until.wait()
        return most


def test_a_folder_is_there_and_then_it_is_gone(tmp_path):
    assert asyncio.run(held(scratch(tmp_path), "a", 10 * KB)) == 10 * KB
    assert names(tmp_path) == []


def test_who_does_not_fit_waits_until_somebody_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr("bot.jobs.scratch.LOOKS", 0.05)

    async def two():
        done, told = asyncio.Event(), []
        first = asyncio.create_task(held(scratch(tmp_path), "a", 70 * KB, until=done))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(held(scratch(tmp_path), "b", 40 * KB, told))
        third = await held(scratch(tmp_path), "c", 20 * KB)
        await asyncio.sleep(0.3)
        assert not second.done()
        done.set()
        return await first, await second, third, told

    first, second, third, told = asyncio.run(two())
    assert (first, second, third) == (70 * KB, 40 * KB, 20 * KB)
    assert told == ["Waiting for 40.0 kB of scratch space"]
    assert names(tmp_path) == []


def test_what_can_never_fit_is_said_at_once(tmp_path):
    with pytest.raises(MergeError) as error:
        asyncio.run(held(scratch(tmp_path), "a", 200 * KB))
    assert error.value.code == "scratch-full"
    with pytest.raises(MergeError) as error:
        asyncio.run(held(scratch(tmp_path, most=None), "a", 10**18))
    assert "free on its disk" in error.value.sentence


def test_after_an_error_it_is_gone_and_kept_only_for_who_goes_on(tmp_path):
    async def cancelled(name, *, keeps):
        never = asyncio.Event()
        task = asyncio.create_task(held(scratch(tmp_path), name, KB, until=never, keeps=keeps))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancelled("off", keeps=False))
    assert names(tmp_path) == []
    asyncio.run(cancelled(DRAINED, keeps=True))
    assert names(tmp_path) == [DRAINED, f"{DRAINED}.space"]
    scratch(tmp_path).sweep(keep=frozenset({DRAINED}))
    assert names(tmp_path) == [DRAINED, f"{DRAINED}.space"]
    scratch(tmp_path).sweep()
    assert names(tmp_path) == []


def test_what_is_cleared_away_is_only_what_jobs_have_left(tmp_path):
    digest = "0123456789abcdef" * 2
    theirs = [
        "huggingface",
        "matplotlib",
        "photos",
        "photos.space",
        "plan-b",
        digest,
        "tmp1x-2",
        "thesis.tex",
    ]
    root = tmp_path / "scratch"
    space = scratch(tmp_path)
    ours = [f"{digest}-1", f"{digest}-12.40", f"plan-{digest}", f"plan-{digest}-0123456789ab"]
    for name in [*theirs, *ours]:
        (root / name).mkdir()
        (root / name / "file").touch()
    for name in ours:
        (root / f"{name}.space").touch()
    space.sweep()
    assert names(tmp_path) == sorted(theirs)


def test_one_that_is_called_off_while_it_asks_for_space_leaves_none_reserved(tmp_path):
    async def called_off(space):
        with space._locked():  # by somebody else, for a moment
            task = asyncio.create_task(held(space, "a", 80 * KB))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.sleep(0.1)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        return await asyncio.wait_for(held(space, "a", 80 * KB), 1)

    assert asyncio.run(called_off(scratch(tmp_path))) == 80 * KB
    assert names(tmp_path) == []


def test_a_full_disk_is_told_and_what_it_did_not_take_is_not_held(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    space = scratch(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(MergeError, match="No space left on device") as error:
            asyncio.run(held(space, "a", 80 * KB))
    assert error.value.code == "scratch-unwritable"
    assert asyncio.run(asyncio.wait_for(held(space, "a", 80 * KB), 1)) == 80 * KB


def test_what_cannot_be_cleared_away_is_not_held_and_leaves_the_job_as_it_ended(tmp_path, monkeypatch):
    def worn(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    space = scratch(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", worn)
        assert asyncio.run(held(space, DRAINED, 80 * KB)) == 80 * KB
    assert names(tmp_path) == [f"{DRAINED}.space"]
    space.sweep()
    assert names(tmp_path) == []


def test_clearing_away_holds_up_nobody_else_and_is_not_called_off(tmp_path):
    async def cleared(space):
        done, beats = asyncio.Event(), []
        task = asyncio.create_task(held(space, "a", KB, until=done))
        await asyncio.sleep(0.1)
        with space._locked():
            done.set()
            for _ in range(5):
                await asyncio.sleep(0.02)
                beats.append(task.done())
                task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert beats == [False] * 5

    asyncio.run(cleared(scratch(tmp_path)))
    assert names(tmp_path) == []


HOLDER = """
import asyncio, sys, time
from pathlib import Path
from bot.jobs.scratch import Needs, Scratch
async def hold():
    space = Scratch(Path(sys.argv[1]), most=100_000, spare=0)
    async with space.reserved(sys.argv[2], needs=Needs(size=80_000), waits=print, keeps=lambda: False) as (folder, _):
        (folder / "half").write_bytes(b"x")
        print("held", flush=True)
        time.sleep(60)
asyncio.run(hold())
"""


def test_another_process_counts_until_it_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "scratch"), KILLED],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    space = scratch(tmp_path)
    assert space._taken("mine", Needs(size=50 * KB)) is None
    space.sweep()
    assert names(tmp_path) == [KILLED, f"{KILLED}.space"]  # it lives
    holder.kill()
    holder.wait()
    space.sweep()
    assert names(tmp_path) == []
    assert asyncio.run(held(space, "mine", 50 * KB)) == 50 * KB
