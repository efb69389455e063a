"""What was pushed while the service was away is found when it comes back."""

import asyncio
import sqlite3
import threading
import time
from unittest.mock import AsyncMock

import httpx2
import pytest

from bot.commands.looking import look
from bot.errors import HostError
from bot.serve.app import app
from bot.serve.service import Service
from tests.clients.hub_fixtures import hub  # noqa: F401 - a fixture
from tests.serve.process import SECRET, pushed, serving

RULES = """
[[watch]]
owners = ["acme"]
destination = "acme/{name}-merged"
"""
ADAPTER = {"adapter_config.json": '{"base_model_name_or_path": "org/base", "peft_type": "LORA"}'}


def queued(server, *, count, seconds=20):
    """The adapters of all jobs, once there are so many."""
    deadline = time.monotonic() + seconds
    while True:
        with sqlite3.connect(server.database) as connection:
            found = connection.execute("SELECT search FROM merge_bot_jobs").fetchall()
        if len(found) >= count or time.monotonic() > deadline:
            return [row[0] for row in found]
        time.sleep(0.1)


def looked(server, *, seconds=20):
    """Waits until it has looked at all."""
    deadline = time.monotonic() + seconds
    while not any("acme has" in line["message"] for line in server.log()):
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["start", "never"])
def test_a_push_that_was_missed_is_found_at_the_next_start(hub, tmp_path, mode):  # noqa: F811 - the fixture
    hub.add_user("acme")
    (tmp_path / "merge-bot.toml").write_text(f'{RULES}[polling]\nserve = "{mode}"\n')
    there = {**hub.environment("acme"), "HF_HOME": str(tmp_path / "home")}
    flags = ("--no-worker", "--config", str(tmp_path / "merge-bot.toml"), "--log", "json")
    hub.commit("acme/old", {**ADAPTER, "adapter_model.safetensors": b"one"})
    with serving(tmp_path, *flags, **there) as server:
        if mode == "start":
            looked(server)
            assert queued(server, count=1, seconds=0.5) == []  # what was there before is left alone
        assert server.stop() == 0
    hub.commit("acme/new", {**ADAPTER, "adapter_model.safetensors": b"two"})
    with serving(tmp_path, *flags, **there) as server:
        found = queued(server, count=1, seconds=20 if mode == "start" else 2)
        assert [("acme/new" in text) for text in found] == ([True] if mode == "start" else [])
        assert server.stop() == 0


def test_a_hub_that_is_away_at_the_start_keeps_nobody_from_serving(hub, tmp_path):  # noqa: F811 - the fixture
    (tmp_path / "merge-bot.toml").write_text(RULES)
    there = {**hub.environment(), "HF_ENDPOINT": "http://127.0.0.1:9", "MERGE_BOT_ATTEMPTS": "1"}
    flags = ("--no-worker", "--config", str(tmp_path / "merge-bot.toml"), "--log", "json")
    with serving(tmp_path, *flags, **there) as server:
        deadline = time.monotonic() + 20
        while not any("the Hub cannot be reached" in line["message"] for line in server.log()):
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.1)
        assert server.stop() == 0


def test_a_push_that_could_not_be_kept_is_looked_for():
    missed, looked, put = threading.Event(), threading.Semaphore(0), AsyncMock(side_effect=gone())
    service = Service(put=put, missed=missed.set, hub_secret=SECRET)

    class Looks:
        stop = threading.Event()

        def watch(self, *, once):
            assert once
            looked.release()

    async def push():
        transport = httpx2.ASGITransport(app(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/webhooks/hub", json=pushed(), headers={"X-Webhook-Secret": SECRET})

    looks = Looks()
    thread = threading.Thread(target=look, args=(looks,), kwargs={"once": True, "missed": missed})
    thread.start()
    assert looked.acquire(timeout=5)  # at the start
    assert not looked.acquire(timeout=0.2)
    assert asyncio.run(push()).status_code == 503
    assert looked.acquire(timeout=5)
    looks.stop.set()
    missed.set()
    thread.join(5)
    assert not thread.is_alive()


def gone():
    return HostError("The database does not answer.", advice="Wait.", code="database-gone")
