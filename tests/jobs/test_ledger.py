"""The ledger: writes may be repeated, late ones change nothing, and lists stay quick when there are many jobs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import update

from bot.errors import RefusedError
from bot.job import Now, Outcome
from bot.jobs import ledger as ledgers
from bot.jobs import tables
from bot.jobs import workers as jobs_workers
from bot.jobs.cleaner import clean
from bot.jobs.office import Office
from bot.jobs.planning import Planning, Quota
from bot.jobs.queues import Queues
from bot.jobs.reading import Queue, Usage
from bot.jobs.retention import Swept, sweep
from bot.jobs.rows import requester
from bot.jobs.scratch import Scratch
from bot.jobs.teller import Teller
from bot.jobs.workers import Workers
from bot.settings import Settings
from tests.conftest import MARKED
from tests.jobs import many
from tests.jobs.orders import PUBLISHED, REFUSED, order

DAY = 86_400


def moved(database, column, by, *where):
    database.write(lambda c: c.execute(update(column.table).where(*where).values({column: column + by})))


def test_each_write_may_be_repeated_and_a_late_one_of_an_older_attempt_changes_nothing(ledger):
    key = ledger.enqueue(order()).order.job.key
    assert ledger.begin(key, 1, worker="a-0") is ledger.begin(key, 1, worker="b-0") is True
    assert ledger.entry(key).worker == "b-0"
    assert ledger.assign(key, 1, runner="local", size=5) is True
    assert ledger.end(key, 1, REFUSED) is ledger.end(key, 1, REFUSED) is True
    assert ledger.end(key, 1, PUBLISHED) is False
    ended = ledger.entry(key)
    assert ledger.begin(key, 1, worker="c-0") is False
    assert ledger.tell(key, 1, Now(stage="publishing")) is False
    assert ledger.entry(key) == ended
    again = ledger.retry(key, by="ada")
    for late in (
        ledger.begin(key, 1, worker="late-0"),
        ledger.tell(key, 1, Now(stage="publishing")),
        ledger.assign(key, 1, runner="late", size=1),
        ledger.end(key, 1, PUBLISHED),
        ledger.end(key, 3, PUBLISHED),
    ):
        assert late is False
    assert ledger.entry(key) == again
    assert ledger.end("0" * 32, 1, PUBLISHED) is False


def test_a_job_that_was_called_off_is_not_begun_and_ends_once(ledger):
    key = ledger.enqueue(order()).order.job.key
    ledger.cancel(key, by="ada")
    assert ledger.begin(key, 1, worker="a-0") is False
    assert ledger.end(key, 1, Outcome(ended="skipped")) is True
    assert ledger.entry(key).state == "skipped"


def test_many_who_ask_for_the_same_at_once_get_one_job_and_one_attempt(ledger):
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda _: ledger.enqueue(order()), range(40)))
    key = first[0].order.job.key
    assert {(entry.order.job.key, entry.attempt) for entry in first} == {(key, 1)}
    ledger.end(key, 1, REFUSED)
    with ThreadPoolExecutor(8) as pool:
        again = list(
            pool.map(lambda n: ledger.retry(key, by="a") if n % 2 else ledger.enqueue(order()), range(40))
        )
    assert {entry.attempt for entry in again} == {2}
    assert len(ledger.entries()) == 1


def test_of_many_ends_at_once_one_counts(ledger):
    key = ledger.enqueue(order()).order.job.key
    outcomes = [replace(PUBLISHED, seconds=float(n)) if n % 2 else REFUSED for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda outcome: ledger.end(key, 1, outcome), outcomes))
    entry = ledger.entry(key)
    assert {outcome.ended for outcome, done in zip(outcomes, told, strict=True) if done} == {entry.state}
    assert entry.outcome.ended == entry.state


def test_jobs_that_share_a_make_wait_for_it_and_who_comes_late_gets_a_new_attempt(ledger):
    one, two, late = (ledger.enqueue(order(f"ada/{n}")).order.job.key for n in range(3))
    assert ledger.join(one, 1, "m") == ledger.join(two, 1, "m") == ledger.join(one, 1, "m") == "m-1"
    assert [entry.order.job.key for entry in ledger.waiting("m-1")] == [one, two]
    assert [entry.order.job.key for entry in ledger.close("m-1")] == [one, two]
    ledger.end(one, 1, PUBLISHED)
    assert [entry.order.job.key for entry in ledger.close("m-1")] == [two]
    assert ledger.join(two, 1, "m") == "m-1"
    assert ledger.join(late, 1, "m") == "m-2"
    assert ledger.entry(late).make == "m-2"
    assert [entry.order.job.key for entry in ledger.waiting("m-2")] == [late]
    ledger.cancel(late, by="ada")
    assert ledger.waiting("m-2") == ()


def test_a_log_keeps_its_newest_lines_and_no_token(ledger, monkeypatch):
    monkeypatch.setattr(ledgers, "MOST_LINES", 10)
    key = ledger.enqueue(order()).order.job.key
    ledger.write(key, [f"line {n}" for n in range(1, 8)])
    ledger.write(key, [f"line {n}" for n in range(8, 16)])
    kept = ledger.lines(key)
    assert [line.number for line in kept] == list(range(6, 16))
    assert [line.text for line in kept] == [f"line {n}" for n in range(6, 16)]
    ledger.write(key, [f"with {MARKED} and \0 and \ud800", "x" * 9000])
    secret, long = ledger.lines(key, after=15)
    assert secret.text == "with [hidden] and  and ?"
    assert len(long.text) == ledgers.LONGEST
    ledger.write(key, [str(n) for n in range(25)])
    assert [line.text for line in ledger.lines(key)] == [str(n) for n in range(15, 25)]
    ledger.write("0" * 32, ["nobody's"])


def test_what_is_stored_holds_no_token_and_comes_back_as_it_was(ledger, database, tmp_path):
    given = order(f"ada/{MARKED}")
    ledger.enqueue(given)
    stored = ledger.entry(given.job.key).order
    assert stored == replace(
        given,
        job=replace(given.job, what="ada/[hidden]"),
        request=replace(given.request, adapter="ada/[hidden]"),
    )
    assert ledger.entries(text=MARKED) == ledger.entries()


def test_progress_is_written_at_each_stage_and_else_once_a_second(ledger):
    key = ledger.enqueue(order()).order.job.key
    teller, told, real = Teller(ledger, key, 1), [], ledger.tell
    ledger.tell = lambda *given: told.append(given[2]) or real(*given)
    for stage in ("fetching", "merging"):
        for done in range(101):
            teller(Now(stage=stage, done=done, total=100))
    assert [(now.stage, now.done) for now in told] == [
        ("fetching", 0), ("fetching", 100), ("merging", 0), ("merging", 100)
    ]  # fmt: skip
    assert ledger.entry(key).now == Now(stage="merging", done=100, total=100)
    ledger.end(key, 1, REFUSED)
    teller(Now(stage="validating"))
    assert teller.goes_on is False


def test_a_quota_counts_jobs_and_bytes_of_a_day_by_who_asked(ledger, database):
    mine = [order(f"ada/{n}", host="hub") for n in range(3)]
    for given in (order("ada/github"), order("x/y", by="grace", host="hub"), *mine):
        ledger.enqueue(given)
    keys = [each.job.key for each in mine]
    ledger.assign(mine[0].job.key, 1, runner="local", size=2**40)
    assert (
        requester(mine[0])
        == requester(replace(mine[0], origin=replace(mine[0].origin, host="page")))
        == "hub:ada"
    )
    used = [ledger.used(ledger.entry(key)) for key in keys]
    assert used == [Usage(jobs=1, bytes=2**40), Usage(jobs=2, bytes=0), Usage(jobs=3, bytes=0)]
    ledger.assign(keys[2], 1, runner="local", size=5)
    ledger.assign(keys[0], 1, runner="local", size=2**40)  # said again: it stays the first
    assert [ledger.used(ledger.entry(key)).bytes for key in keys] == [2**40, 0, 2**40 + 5]
    moved(database, tables.attempts.c.at, -DAY - 1, tables.attempts.c.job == keys[0])
    assert ledger.used(ledger.entry(keys[2])) == Usage(jobs=2, bytes=5)
    watch = order("acme/lora", by="", host="watch", repository="acme/lora")
    assert requester(watch) == "watch:acme"


def test_of_several_at_once_only_those_above_the_quota_are_refused_and_a_retry_counts(ledger, tmp_path):
    planning = Planning(
        settings=Settings(), ledger=ledger, scratch=Scratch(tmp_path / "scratch"), quota=Quota(jobs=3, gb=10)
    )
    entries = [ledger.enqueue(order(f"ada/{n}")) for n in range(4)]
    assert [refusal(planning.admit, entry) for entry in entries] == ["", "", "", "quota-jobs"]
    for entry in reversed(entries[:3]):
        ledger.assign(entry.order.job.key, 1, runner="local", size=4 * 10**9)
    assert [refusal(planning.admit_size, entry) for entry in entries[:3]] == ["quota-gb", "", ""]
    key = ledger.enqueue(order("x/y", by="grace")).order.job.key
    for _ in range(2):
        ledger.assign(key, ledger.entry(key).attempt, runner="local", size=4 * 10**9)
        ledger.end(key, ledger.entry(key).attempt, REFUSED)
        ledger.retry(key, by="grace")
    third = ledger.entry(key)
    assert (third.attempt, refusal(planning.admit, third)) == (3, "")
    ledger.assign(key, 3, runner="local", size=4 * 10**9)
    assert refusal(planning.admit_size, third) == "quota-gb"
    ledger.end(key, 3, REFUSED)
    assert refusal(planning.admit, ledger.retry(key, by="grace")) == "quota-jobs"


def refusal(admit, entry):
    """The code, if it is refused."""
    try:
        admit(entry)
    except RefusedError as error:
        return error.code
    return ""


def test_queues_say_how_much_waits_and_since_when(ledger, database):
    keys = [ledger.enqueue(order(f"ada/{n}")).order.job.key for n in range(3)]
    for key in keys[:2]:
        ledger.assign(key, 1, runner="pool:gpu", size=1)
    moved(database, tables.jobs.c.created, -100, tables.jobs.c.id == keys[0])
    ledger.begin(keys[2], 1, worker="a-0")
    (queue,) = ledger.queues()
    assert (queue.runner, queue.depth) == ("pool:gpu", 2)
    assert 100 <= queue.age < 130
    moved(database, tables.jobs.c.created, 7200, tables.jobs.c.state == "queued")  # the clock was set back
    assert ledger.queues() == (Queue(runner="pool:gpu", depth=2, age=0.0),)


def test_a_worker_whose_beat_stands_still_is_gone_whatever_the_clocks_say(database, monkeypatch):
    workers, clock = Workers(database), [0.0]
    monkeypatch.setattr(jobs_workers, "passed", lambda: clock[0])
    for executor in ("a-0", "b-0"):
        workers.beat(executor)
    assert workers.gone(seconds=30) == ()
    moved(database, tables.workers.c.at, -7200)
    clock[0] = 29
    workers.beat("b-0")
    assert workers.gone(seconds=30) == ()
    clock[0] = 31
    assert workers.gone(seconds=30) == ("a-0",)
    workers.beat("a-0")
    assert workers.gone(seconds=30) == ()
    workers.leave("a-0")
    assert [worker.executor for worker in workers.all()] == ["b-0"]


def test_what_ended_long_ago_goes_and_what_goes_on_stays(ledger, database):
    old, new, active = (ledger.enqueue(order(f"ada/{n}")).order.job.key for n in range(3))
    for key in (old, new, active):
        ledger.write(key, ["a", "b"])
    for key in (old, new):
        ledger.join(key, 1, f"m{key}")
        ledger.close(f"m{key}-1")
        ledger.end(key, 1, REFUSED)
    moved(database, tables.jobs.c.ended, -40 * DAY, tables.jobs.c.id == old)
    moved(database, tables.makes.c.ended, -40 * DAY, tables.makes.c.id == f"m{old}")
    moved(database, tables.jobs.c.ended, -10 * DAY, tables.jobs.c.id == new)
    moved(database, tables.jobs.c.created, -90 * DAY, tables.jobs.c.id == active)
    assert sweep(database, log_days=7, job_days=30) == Swept(lines=4, jobs=1, makes=1, deliveries=0)
    assert ledger.entry(old) is None
    assert (ledger.entry(new).state, ledger.lines(new)) == ("refused", ())
    ledger.write(new, ["c"])
    assert [line.number for line in ledger.lines(new)] == [3]
    assert len(ledger.lines(active)) == 2
    assert sweep(database, log_days=30, job_days=30) == Swept(lines=0, jobs=0, makes=0, deliveries=0)


def test_a_job_that_was_forgotten_is_begun_like_a_new_one(database):
    queues = Queues(database)
    queues.prepare({})
    office = Office(database, queues)
    first, going = (office.enqueue(order(f"ada/{n}")).order for n in range(2))
    office.end(first.job.key, 1, REFUSED)
    queues.cancel(f"{first.job.key}-1")
    moved(database, tables.jobs.c.ended, -40 * DAY, tables.jobs.c.id == first.job.key)
    known = [f"{each.job.key}-1" for each in (first, going)]
    assert queues.states(known) == {known[0]: "CANCELLED", known[1]: "ENQUEUED"}
    assert clean(database, queues, log_days=1, job_days=1).jobs == 1
    assert queues.states(known) == {known[1]: "ENQUEUED"}
    assert office.enqueue(first).attempt == 1
    assert set(queues.states(known).values()) == {"ENQUEUED"}
    queues.close()


@pytest.mark.slow
def test_a_list_of_a_hundred_thousand_jobs_is_there_at_once(ledger, database):
    many.fill(database, 100_000)
    looks = {
        "all": {},
        "page": {"before": 1_700_050_000.0},
        "state": {"states": frozenset({"running", "failed"})},
        "rare": {"text": "adapter-77777"},
        "none": {"text": "nothing like this"},
        "late": {"text": "adapter-12", "states": frozenset({"published"})},
    }
    for name, look in looks.items():
        took, found = quickest(lambda look=look: ledger.entries(**look))
        assert len(found) == {"rare": 1, "none": 0}.get(name, 50), name
        assert took < 2, (
            name
        )  # a quarter of a second on a busy machine; benchmarks/service.py has the figures
    took, counts = quickest(ledger.counts)
    assert counts["published"] == 97_000
    assert took < 2


def quickest(look):
    """The shortest of some looks in seconds, and what was found."""
    looks = []
    for _ in range(7):
        begun = time.perf_counter()
        found = look()
        looks.append(time.perf_counter() - begun)
    return min(looks), found
