"""A step in a process of its own: it does its work, says how far it is, and is gone with whoever wanted it."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bot import settings
from bot.errors import HostError, InputError, MergeError, StoppedError
from bot.jobs.process import Bounds, Room
from bot.records import Plan
from bot.request import Destination, MergeRequest
from bot.settings import Settings, step_environment
from bot.terms import Limits, Terms
from tests.tiny.adapters import LORA_VARIANTS


@pytest.fixture
def asked(adapter_on, tmp_path):
    """A request for a merge of a tiny adapter into `scratch/merged`."""
    base, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    to = Destination(kind="folder", location=str(tmp_path / "scratch" / "merged"))
    return MergeRequest(adapter=str(adapter), base=str(base), destination=to, validation="structure")


@pytest.fixture
def room(tmp_path):
    (tmp_path / "scratch").mkdir()
    heard = {"now": [], "lines": []}
    made = Room(
        settings=Settings(isolation="none"),
        scratch=tmp_path / "scratch",
        tell=heard["now"].append,
        log=heard["lines"].append,
    )
    return made, heard


def children():
    """Processes that run a step."""
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "bot.jobs.child"], check=False, capture_output=True, text=True
    )
    return found.stdout.split()


def test_a_step_gives_its_record_and_says_how_far_it_is(room, asked):
    here, heard = room
    plan = asyncio.run(here.do("plan", asked))
    assert isinstance(plan, Plan)
    assert plan.base.location == asked.base
    assert heard["now"][-1].stage == "planning"
    assert heard["lines"]
    assert children() == []


def test_an_error_arrives_as_it_was_raised(room, asked):
    here, _ = room
    with pytest.raises(InputError) as error:
        asyncio.run(here.do("plan", replace(asked, adapter="/nowhere")))
    assert error.value.advice


@pytest.mark.parametrize("moment", ["at once", "at work"])
def test_cancelled_it_is_gone_within_seconds(room, asked, moment):
    here, heard = room

    async def cancelled():
        task = asyncio.create_task(here.do("merge", asked))
        await asyncio.sleep(0.1)
        while moment == "at work" and not heard["lines"]:  # noqa: ASYNC110 - the process has no event of ours
            await asyncio.sleep(0.05)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - started

    assert asyncio.run(cancelled()) < 6
    assert children() == []
    assert list(here.scratch.iterdir()) == []


def test_out_of_time_it_is_ended(room, asked):
    here, _ = room
    with pytest.raises(MergeError) as error:
        asyncio.run(here.do("merge", asked, bounds=Bounds(seconds=0.3)))
    assert error.value.code == "out-of-time"
    assert children() == []


def test_too_much_disk_ends_it(room, asked, monkeypatch):
    here, _ = room
    monkeypatch.setattr("bot.jobs.process.LOOKS", 0.1)
    (here.scratch / "large").write_bytes(bytes(1 << 20))
    with pytest.raises(MergeError) as error:
        asyncio.run(here.do("merge", asked, bounds=Bounds(disk=1 << 19)))
    assert error.value.code == "scratch-overrun"


def test_without_a_sign_of_life_it_ends_itself(room, asked):
    """The executor has lost its database: somebody else may do the job by now."""
    here, _ = room
    deaf = replace(here, alive=lambda: False)
    with pytest.raises(HostError) as error:
        asyncio.run(deaf.do("merge", asked, bounds=Bounds(patience=0.5)))
    assert error.value.code == "lease-lost"


ORPHAN = """
import asyncio, os, sys
from pathlib import Path
from bot.jobs.process import Room
from bot.request import Destination, MergeRequest
from bot.settings import Settings
scratch, adapter, base = map(Path, sys.argv[1:])
to = Destination(kind="folder", location=str(scratch / "merged"))
request = MergeRequest(adapter=str(adapter), base=str(base), destination=to)
room = Room(settings=Settings(), scratch=scratch, tell=lambda now: print(now.stage, flush=True), log=lambda l: None)
asyncio.run(room.do("merge", request))
"""


def test_when_its_parent_is_killed_it_is_gone_and_so_is_its_worker(room, asked):
    here, _ = room
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(here.scratch), asked.adapter, asked.base],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout.readline().strip()  # it is at work, and the sealed worker was started ahead
    mine = f"TMPDIR={here.scratch}".encode()
    assert of(mine)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while of(mine) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert of(mine) == []


def of(mark):
    """The processes that have this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes():
                found.append(process.name)
    return found


@pytest.mark.slow
def test_the_last_look_stops_a_publication_and_only_that_step_has_the_token(room, asked, tmp_path):
    here, _ = room
    looked = []

    async def gate():
        looked.append(True)
        raise StoppedError("Called off.", advice="Again?", code="cancelled")

    asyncio.run(here.do("merge", asked))
    folder, to = tmp_path / "scratch" / "merged", Destination(kind="folder", location=str(tmp_path / "out"))
    done, public = asyncio.run(replace(here, gate=gate).do("publish", folder, replace(asked, destination=to)))
    assert (done.destination, public) == (to, False)
    assert looked == []  # a folder is nobody else's


def test_settings_cross_with_no_other_secret(tmp_path, monkeypatch):
    terms = Terms(allowed_licenses=frozenset({"a", "b"}), limits=Limits(rank=7, tensors=None, cost=3))
    known = Settings(read_token="r", write_token="w", terms=terms, scratch=tmp_path, timeout=3.5)
    monkeypatch.setenv("MERGE_BOT_DATABASE_URL", "postgresql://me:secret@host/db")
    said = step_environment(known, scratch=tmp_path, writes=True)
    assert settings.load(said) == known
    assert settings.load(step_environment(known, scratch=tmp_path)) == replace(known, write_token=None)
    assert not [name for name, text in said.items() if "secret" in text or "hf_" in text]
