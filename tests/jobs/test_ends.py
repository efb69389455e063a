"""What ends a job that nobody else would: executors killed between two writes, makes that failed, a database away."""

import asyncio
from dataclasses import dataclass, replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from sqlalchemy import text

from bot.doors.pace import Pace
from bot.errors import HostError, RefusedError, StoppedError
from bot.job import Now
from bot.jobs import patience
from bot.jobs.answers import Answerer, Silent
from bot.jobs.closing import CANCELLED
from bot.jobs.dropped import Dropped
from bot.jobs.flow import Flow
from bot.jobs.lease import Lease
from bot.jobs.office import Office
from bot.jobs.queues import HF_JOBS, JOBS, LOCAL, Queues, answer_id
from bot.jobs.reporter import Reporter
from bot.jobs.retention import sweep
from bot.jobs.workers import Workers
from bot.settings import Settings
from tests.jobs.orders import PUBLISHED, order
from tests.publish.samples import a_plan


class Away:
    """A runner whose work goes on without its executor."""

    def __init__(self):
        self.called_off = []

    def call_off(self, make):
        self.called_off.append(make)
        if len(self.called_off) == 1:
            raise stumbles()

    async def carry_out(self, make, *, tell, log):
        raise stumbles()


def stumbles():
    return HostError("The Hub stumbles.", advice="Again.", code="hub-down")


@pytest.fixture
def queues(database):
    made = Queues(database)
    made.prepare({JOBS: 1, LOCAL: 1, HF_JOBS: 1})
    yield made
    made.close()


@pytest.fixture
def office(database, queues):
    return Office(database, queues)


@pytest.fixture
def flow(office, queues):
    return Flow(
        executor="one", settings=Settings(), ledger=office, queues=queues, answers=Answerer(),
        planning=SimpleNamespace(), runners={"hf-jobs": Away()}, wait=lambda _: 0.01,
    )  # fmt: skip


def status(database, queues, id_, word, executor="one"):
    table = "workflow_status" if database.is_sqlite else "dbos.workflow_status"
    set_ = f"UPDATE {table} SET status = :word, executor_id = :executor WHERE workflow_uuid = :id"
    database.write(lambda c: c.execute(text(set_), {"word": word, "executor": executor, "id": id_}))
    assert queues.states([id_]) == {id_: word}


def joined(office, queues, *, by="ada", runner="local"):
    """A job that waits for a make, and the make's id."""
    id_ = office.enqueue(order(by=by)).order.job.key
    office.begin(id_, 1, worker="one")
    office.assign(id_, 1, runner=runner, size=1)
    make = office.join(id_, 1, "made")
    queues.make(make, {}, runner=runner)
    return id_, make


@pytest.mark.parametrize("word", ["ERROR", "CANCELLED"])
def test_a_make_that_failed_is_nobody_else_s(database, office, queues, word):
    id_, make = joined(office, queues)
    status(database, queues, make, word)
    office.tidy()
    assert office.entry(id_).state == {"ERROR": "failed", "CANCELLED": "skipped"}[word]
    assert joined(office, queues, by="bob")[1] != make


def test_who_joined_a_make_that_ended_without_them_begins_anew(database, office, queues):
    id_, make = joined(office, queues)
    status(database, queues, make, "SUCCESS")
    office.tidy()
    entry = office.entry(id_)
    assert (entry.state, entry.attempt, entry.make) == ("queued", 2, "")
    assert queues.states([f"{id_}-2"]) == {f"{id_}-2": "ENQUEUED"}
    assert joined(office, queues, by="bob")[1] != make


def test_a_deleted_comment_that_a_slow_host_tells_of_late_calls_off_no_later_attempt(office, queues, flow):
    """The first attempt was cancelled and repeated meanwhile."""
    first, error = office.enqueue(order()), StoppedError("It was deleted.", advice="Again?", code="deleted")
    id_ = first.order.job.key
    office.cancel(id_, by="ada")
    office.end(id_, 1, CANCELLED)
    office.retry(id_, by="ada")
    flow._stopped(first, error)
    assert (office.entry(id_).state, office.entry(id_).attempt) == ("queued", 2)
    flow._stopped(office.entry(id_), error)
    assert office.entry(id_).state == "cancelling"


def test_a_make_that_found_nobody_is_not_joined_any_more(office, queues, flow, monkeypatch):
    id_, make = joined(office, queues)
    office.cancel(id_, by="ada")  # its stop is still in line
    document = {}
    monkeypatch.setattr("bot.jobs.flow.from_dict", lambda *_: SimpleNamespace(request=order().request))
    assert not flow.look(make, document)
    assert joined(office, queues, by="bob")[1] != make


def test_a_place_that_cannot_be_published_to_ends_the_job_before_the_merge(office, queues, flow, monkeypatch):
    id_, make = joined(office, queues)
    wanted = SimpleNamespace(request=order().request, plan=a_plan())
    occupied = RefusedError("It holds what is not ours.", advice="Choose another.", code="destination-exists")
    hub = SimpleNamespace(find=lambda to, **_: None, check=Mock(side_effect=occupied))
    monkeypatch.setattr("bot.jobs.flow.from_dict", lambda *_: wanted)
    monkeypatch.setattr("bot.jobs.flow.publisher", lambda *_: hub)
    assert not flow.look(make, {})
    assert office.entry(id_).state == "refused"
    hub.check.side_effect = None
    assert flow.look(joined(office, queues, by="bob")[1], {})


def test_a_make_that_is_begun_again_after_its_end_does_nothing(office, queues, flow):
    id_, make = joined(office, queues)
    office.end(id_, 1, PUBLISHED)
    asyncio.run(flow.carry_out(make, {}))  # a document that nobody could read
    assert office.entry(id_).state == "published"


def test_a_stop_that_was_killed_before_its_answer_answers(office, queues, flow):
    id_, _ = joined(office, queues)
    office.cancel(id_, by="ada")
    office.end(id_, 1, CANCELLED)
    assert queues.states([answer_id(id_, 1)]) == {}
    flow.stop(id_, 1)
    assert queues.states([answer_id(id_, 1)])


def test_an_end_without_an_answer_is_found(office, queues):
    id_, _ = joined(office, queues)
    office.end(id_, 1, PUBLISHED)
    office.remind()
    assert queues.states([answer_id(id_, 1)])


def test_what_runs_elsewhere_is_called_off_though_nobody_follows_it(office, queues, flow):
    id_, make = joined(office, queues, runner="hf-jobs")
    office.cancel(id_, by="ada")
    flow.stop(id_, 1)
    away = flow.runners["hf-jobs"]
    assert away.called_off == [make, make]  # the first time the Hub stumbled
    assert office.entry(id_).state == "skipped"
    flow.stop(id_, 1)  # killed, and begun again
    assert len(away.called_off) == 3


@dataclass(frozen=True)
class Wanted:
    id: str = ""
    runner: str = "hf-jobs"
    plan: None = None


def test_what_is_given_up_is_called_off_where_it_runs_and_its_log_says_why(office, queues, flow, monkeypatch):
    id_, make = joined(office, queues, runner="hf-jobs")
    monkeypatch.setattr("bot.jobs.flow.from_dict", lambda *_: Wanted())
    asyncio.run(flow.carry_out(make, {}))
    assert flow.runners["hf-jobs"].called_off == [make, make]
    assert (office.entry(id_).state, office.entry(id_).outcome.failure.code) == ("failed", "hub-down")
    told = [line.text for line in office.lines(id_)]
    assert told == ["The Hub stumbles. Trying again in 10 ms."] * 5


def test_an_edit_that_a_slow_host_took_after_the_end_is_not_the_last_word(office, queues):
    id_, _ = joined(office, queues)
    said = []

    class Slow(Silent):
        def tell(self, now):
            office.end(id_, 1, PUBLISHED)
            said.extend(["published", now.stage])

        def end(self, outcome):
            said.append(outcome.ended)

    reporter = Reporter(
        lambda: (office.entry(id_),), ledger=office, answers=lambda _: Slow(), stop=print, took=lambda *_: None,
        pace=Pace(every=0, eager=0, later=0),
    )  # fmt: skip
    reporter._pass_on([], edits=True)
    assert said == ["published", "queued", "published"]


def test_there_is_no_way_back_from_publishing(office, queues):
    id_, _ = joined(office, queues)
    assert office.publish(id_, 1)
    assert office.tell(id_, 1, Now(stage="merging", done=1, total=2))
    assert office.entry(id_).now == Now(stage="publishing")
    assert office.tell(id_, 1, Now(stage="publishing", done=1, total=2))
    assert office.entry(id_).now.done == 1


@pytest.fixture
def lease(database, queues):
    made = Lease("one", workers=Workers(database), queues=queues, lost=lambda: None)
    made.start()
    yield made
    made._stop.set()


def test_the_last_look_asks_whether_the_lease_holds(database, office, queues, flow, lease):
    id_, make = joined(office, queues)
    mine = replace(flow, held=lease.held)
    other = Workers(database)
    other.gone(seconds=0)
    assert other.take("one")
    with pytest.raises(HostError) as error:
        asyncio.run(mine.gate(make))
    assert error.value.code == "lease-lost"
    assert office.entry(id_).now.stage != "publishing"
    other.leave("one")
    with pytest.raises(HostError):
        asyncio.run(mine.gate(make))


def test_the_last_look_passes_who_holds_the_lease(office, queues, flow, lease):
    id_, make = joined(office, queues)
    asyncio.run(replace(flow, held=lease.held).gate(make))
    assert office.entry(id_).now.stage == "publishing"
    office.cancel(id_, by="ada")
    asyncio.run(replace(flow, held=lease.held).gate(make))  # too late
    lease._gone = True
    with pytest.raises(HostError):
        asyncio.run(replace(flow, held=lease.held).gate(make))


def test_what_was_dropped_goes_back_into_its_queue_at_the_second_look(database, queues):
    for id_ in ("a", "b"):
        queues.job(id_, 1)
        status(database, queues, f"{id_}-1", "PENDING")
    dropped = Dropped("one", queues=queues, active=lambda: frozenset({"b-1"}), seconds=0)
    dropped.look()
    assert queues.states(["a-1"]) == {"a-1": "PENDING"}
    dropped.look()
    assert queues.states(["a-1", "b-1"]) == {"a-1": "ENQUEUED", "b-1": "PENDING"}


@pytest.mark.parametrize("code", ["database-gone", "database-full", "lease-lost"])
def test_a_step_waits_for_our_own_database(monkeypatch, code):
    monkeypatch.setattr(patience, "SOON", lambda _: 0.0)
    tries = []

    def step(given):
        tries.append(given)
        if len(tries) < 9:
            raise HostError("Away.", advice="Wait.", code=code)
        return given

    async def later(given):
        return step(given)

    assert patience.patient(step)(1) == 1
    tries.clear()
    assert asyncio.run(patience.patient(later)(2)) == 2

    def other():
        raise StoppedError("No.", advice="No.", code="cancelled")

    with pytest.raises(StoppedError):
        patience.patient(other)()


def test_a_make_that_nobody_ended_is_removed_when_nobody_waits(database, office, queues):
    id_, _ = joined(office, queues)
    database.write(lambda c: c.execute(text("UPDATE merge_bot_makes SET created = 1")))
    assert sweep(database, log_days=1, job_days=1).makes == 0
    office.end(id_, 1, PUBLISHED)
    assert sweep(database, log_days=1, job_days=1).makes == 1
