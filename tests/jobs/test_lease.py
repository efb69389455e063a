"""Who lives and who is gone: leases, slots, and what is handed back, on SQLite and on PostgreSQL."""

import time

import pytest
from sqlalchemy import text

from bot.jobs.lease import Lease
from bot.jobs.queues import JOBS, Queues
from bot.jobs.slot import Slot
from bot.jobs.workers import Workers

SECONDS = 1.2


@pytest.fixture
def queues(database):
    made = Queues(database)
    made.prepare({JOBS: 1})
    yield made
    made.close()


@pytest.fixture
def lease_of(database, queues):
    """Leases by name; those that were lost are in its list."""
    there, lost = [], []

    def make(name):
        made = Lease(
            name,
            workers=Workers(database),
            queues=queues,
            lost=lambda: lost.append(name),
            seconds=SECONDS,
        )
        there.append(made)
        made.start()
        return made

    make.lost = lost
    yield make
    for lease in there:
        lease._stop.set()


def begun_by(database, queues, executor):
    """A workflow that this executor has begun, and nobody else will say so."""
    queues.job(f"of-{executor}", 1)
    set_ = "UPDATE {} SET status = 'PENDING', executor_id = :executor WHERE workflow_uuid = :id"
    table = "workflow_status" if database.is_sqlite else "dbos.workflow_status"
    database.write(
        lambda c: c.execute(text(set_.format(table)), {"executor": executor, "id": f"of-{executor}-1"})
    )
    return f"of-{executor}-1"


def until(found, seconds=10):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_a_dead_executor_had_begun_is_taken_over_once(database, queues, lease_of):
    id_ = begun_by(database, queues, "dead")
    Workers(database).beat("dead")  # and never again
    lease_of("one")
    lease_of("two")
    until(lambda: queues.states([id_]) == {id_: "ENQUEUED"})
    until(lambda: [w.executor for w in Workers(database).all()] == ["one", "two"])


@pytest.mark.slow
def test_a_living_one_keeps_its_own_whatever_the_clock_says(database, queues, lease_of, monkeypatch):
    lease_of("one")
    id_ = begun_by(database, queues, "one")
    wall = time.time
    for jump in (86_400, -86_400):
        monkeypatch.setattr(time, "time", lambda by=jump: wall() + by)
        lease_of(f"other{jump}")
        time.sleep(SECONDS * 1.5)
    assert queues.states([id_]) == {id_: "PENDING"}
    assert lease_of.lost == []


@pytest.mark.slow
def test_one_that_was_paused_hears_that_it_is_not_the_owner_any_more(database, queues, lease_of):
    paused = lease_of("paused")
    id_ = begun_by(database, queues, "paused")
    gate = paused._workers.beat
    held = []
    paused._workers.beat = lambda name: (held.append(name), time.sleep(SECONDS * 3), gate(name))[-1]
    until(lambda: held)
    assert paused.alive()
    lease_of("other")
    until(lambda: not paused.alive())
    assert queues.states([id_]) == {id_: "PENDING"}  # it stops long before anybody takes over
    until(lambda: queues.states([id_]) == {id_: "ENQUEUED"})
    until(lambda: lease_of.lost == ["paused"])
    assert not paused.alive()


def test_who_stops_hands_back_at_once(database, queues, lease_of):
    lease = lease_of("one")
    id_ = begun_by(database, queues, "one")
    lease.stop()
    assert queues.states([id_]) == {id_: "ENQUEUED"}
    assert Workers(database).all() == ()


def test_an_id_is_begun_once_and_what_was_cancelled_is_not(queues):
    for _ in range(3):
        queues.job("a", 1)
    queues.cancel("a-1")
    queues.job("a", 1)
    assert queues.states(["a-1", "a-2"]) == {"a-1": "CANCELLED"}


def test_a_slot_keeps_its_name_and_is_nobody_else_s(tmp_path):
    first, second = Slot(tmp_path), Slot(tmp_path)
    assert first.name != second.name
    name = first.name
    first.close()
    again = Slot(tmp_path)
    assert again.name == name
    other = Slot(tmp_path / "of-a-container-of-the-same-name")
    assert other.name not in {name, second.name}
    for slot in (again, second, other):
        slot.close()
