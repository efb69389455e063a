"""Deliveries: none lost, none twice, also where they come at once, in a crash, and while the database is away."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import select, update

from bot.errors import HostError
from bot.jobs.inbox import Delivery, Inbox
from bot.jobs.tables import inbox as table

HERE = Path(__file__).parents[2]
WRITER = Path(__file__).with_name("writer.py")


@pytest.fixture
def inbox(database):
    there = Inbox(database)
    yield there
    there.close()


def delivery(key, body=b"{}"):
    return Delivery(key=str(key), source="github", event="push", body=body)


def keys(database):
    return database.read(lambda connection: list(connection.scalars(select(table.c.key))))


def test_what_was_put_is_given_out_once_in_order_and_not_again_when_it_is_finished(inbox, database):
    inbox.put([delivery("a", b"\0\xff"), delivery("b"), delivery("a", b"again")])
    inbox.put([delivery("b"), delivery("c")])
    inbox.put([])
    taken = inbox.take(limit=2)
    assert taken == (delivery("a", b"\0\xff"), delivery("b"))
    assert inbox.take() == (delivery("c"),)
    assert inbox.take() == ()
    inbox.finish(["a", "b", "c"])
    inbox.put([delivery("a")])
    assert inbox.take(lease=-1) == ()
    assert keys(database) == ["a", "b", "c"]


def test_what_was_taken_and_not_finished_is_given_out_again(inbox):
    inbox.put([delivery("a"), delivery("b")])
    assert len(inbox.take()) == 2
    inbox.finish(["a"])
    assert inbox.take(lease=0.0) == (delivery("b"),)


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_jumps_keeps_no_delivery_for_hours(inbox, database, hours):
    inbox.put([delivery("a")])
    inbox.take()
    moved = update(table).values(taken=table.c.taken - 3600 * hours)
    database.write(lambda connection: connection.execute(moved))
    assert inbox.take() == (delivery("a"),)


def test_two_who_take_at_once_get_different_ones(inbox, database):
    inbox.put([delivery(n) for n in range(400)])
    other = Inbox(database)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda n: (inbox, other)[n % 2].take(limit=10), range(60)))
    other.close()
    given = [each.key for some in taken for each in some]
    assert len(given) == len(set(given)) == 400


def test_a_burst_with_duplicates_from_many_is_kept_once_each(inbox, database):
    wanted = 2000
    numbers = list(range(wanted)) + random.Random(7).choices(range(wanted), k=600)
    random.Random(8).shuffle(numbers)

    async def send(queue):
        while queue:
            await inbox.put_async([delivery(queue.pop(), b"x" * 2000)])

    async def burst():
        await asyncio.gather(*(send(numbers) for _ in range(50)))

    asyncio.run(burst())
    assert numbers == []
    assert sorted(map(int, keys(database))) == list(range(wanted))


def test_a_delivery_that_the_database_does_not_take_takes_no_other_with_it(url, inbox, database):
    if url.startswith("sqlite"):
        odd = Delivery(key="odd", source="github", event="push", body=object())
    else:
        odd = delivery("a\0b")
    with ThreadPoolExecutor(20) as pool:
        done = [pool.submit(inbox.put, [each]) for each in (*map(delivery, range(19)), odd)]
    assert [future.exception() is None for future in done] == [True] * 19 + [False]
    assert len(keys(database)) == 19


def test_closing_writes_what_was_put_and_takes_no_more(database):
    there = Inbox(database)
    with ThreadPoolExecutor(10) as pool:
        done = [pool.submit(there.put, [delivery(n)]) for n in range(10)]
    there.close()
    assert [future.result() for future in done] == [None] * 10
    with pytest.raises(HostError) as caught:
        there.put([delivery("late")])
    assert caught.value.code == "service-stops"


def test_what_was_confirmed_survives_kill_9(url, database, tmp_path):
    """A process puts without end and prints what is confirmed; it is killed in the middle, three times."""
    confirmed = []
    for start in (0, 100_000, 200_000):
        command = [sys.executable, str(WRITER), url, str(start)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=HERE, env=os.environ | {"PYTHONPATH": str(HERE)}
        )
        confirmed += [process.stdout.readline() for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        confirmed += process.stdout.read().splitlines(keepends=True)
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
    whole = [line.strip() for line in confirmed if line.endswith("\n")]
    assert len(whole) >= 120
    there = keys(database)
    assert set(whole) <= set(there)
    assert len(there) == len(set(there))


def test_a_locked_database_is_waited_for(tmp_path, open_database):
    database = open_database(f"sqlite:///{tmp_path / 'bot.db'}")
    inbox = Inbox(database)
    other = sqlite3.connect(tmp_path / "bot.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    released = threading.Timer(1.5, lambda: other.execute("COMMIT"))
    released.start()
    begun = time.monotonic()
    inbox.put([delivery("a")])
    assert time.monotonic() - begun > 1.4
    assert [each.key for each in inbox.take()] == ["a"]
    inbox.close()
    other.close()


@pytest.mark.slow
def test_a_server_that_crashes_and_is_started_again_loses_no_delivery(postgres, open_database):
    database = open_database(postgres.fresh())
    inbox = Inbox(database)
    numbers, stop, errors = count(), threading.Event(), []
    put = []

    def send():
        while not stop.is_set():
            key = next(numbers)
            try:
                inbox.put([delivery(key)])
                put.append(str(key))
            except HostError as error:
                errors.append(error)

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    postgres.stop()
    time.sleep(1)
    before = len(put)
    postgres.start()
    deadline = time.monotonic() + 20
    while len(put) < before + 50 and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    inbox.close()
    there = keys(database)
    assert len(put) >= before + 50
    assert errors == []
    assert set(put) <= set(there)
    assert len(there) == len(set(there))
