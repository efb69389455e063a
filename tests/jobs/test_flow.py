"""Jobs through the real flow: workers as processes, real merges of tiny models, a Hub on this machine, and kill -9."""

import json
import signal
import sqlite3
import time

import pytest
from sqlalchemy import text

from bot.jobs.order import ACTIVE
from tests.e2e import hub, models
from tests.hub.faults import Fault
from tests.jobs import postgres as private
from tests.jobs.site import LEASE, Site

__all__ = ["hub", "models"]
pytestmark = pytest.mark.timeout(600)  # on a busy machine torch alone takes ten seconds to import


@pytest.fixture
def site(tmp_path, hub):
    hub.clear_requests()
    made = Site(f"sqlite:///{tmp_path / 'bot.db'}", hub=hub, root=tmp_path)
    yield made
    made.close()
    hub.clear_faults()


def words(site, id_):
    return [line.text for line in site.office.lines(id_)]


@pytest.mark.slow
def test_one_merge_for_all_who_ask_and_nothing_is_left(site):
    """The second asks while the first is at work, the third when all is done."""
    site.start()
    first, second = site.ask(to="alice/flow-1"), site.ask(to="alice/flow-1", by="bob")
    entry = site.ended(first, second)
    other = site.office.entry(first)
    assert (entry.state, other.state) == ("published", "published"), site.logs()
    assert entry.make == other.make
    assert entry.outcome.publication == other.outcome.publication
    assert entry.outcome.report.verdict == "passed"
    assert entry.runner == "local"
    assert len(site.commits("alice/flow-1")) == 2  # the Hub's first, and ours
    third = site.ended(site.ask(to="alice/flow-1", by="carol"))
    assert (third.state, third.outcome.publication.existed) == ("skipped", True)
    assert len(site.commits("alice/flow-1")) == 2
    assert site.leftovers() == []


@pytest.mark.slow
def test_what_cannot_be_done_is_refused_once_and_not_tried_again(site):
    site.start()
    site.hub.clear_requests()
    entry = site.ended(site.ask("alice/nowhere"), seconds=20)
    assert entry.state in {"refused", "failed"}
    assert entry.outcome.failure.sentence
    asked = [r for r in site.hub.requests if "alice/nowhere" in r.path]
    assert len(asked) <= 3
    assert site.leftovers() == []


@pytest.mark.slow
def test_a_merge_of_what_the_requester_may_not_read_tells_nothing_of_it(site, models):
    site.hub.commit("acme/hidden", models.base, private=True)
    files = {p.name: p.read_bytes() for p in models.adapter.iterdir() if p.is_file()}
    config = json.loads(files["adapter_config.json"]) | {"base_model_name_or_path": "acme/hidden"}
    site.hub.commit("alice/on-hidden", files | {"adapter_config.json": json.dumps(config)})
    site.hub.clear_requests()
    site.start()
    entry = site.ended(site.ask("alice/on-hidden", to="alice/flow-hidden", access="unknown"))
    assert (entry.state, entry.outcome.failure.code) == ("failed", "no-access"), site.logs()
    assert not [r for r in site.hub.requests if r.user and "acme/hidden" in r.path]
    assert site.ended(site.ask(to="alice/flow-open", access="unknown")).state == "published", site.logs()


@pytest.fixture
def slow_hub(site):
    """The Hub says nothing for a while, so that whoever plans can be met at it."""
    site.hub.faults.add(Fault(match="api/models/alice/tiny-lora", hang=6, times=1))


def test_cancelled_while_queued_it_never_begins(site):
    id_ = site.ask(verb="plan", to="alice/flow-queued")
    assert site.office.cancel(id_, by="alice").state == "cancelling"
    site.start()
    entry = site.ended(id_)
    assert (entry.state, entry.outcome.failure.code) == ("skipped", "cancelled")
    assert words(site, id_) == ["Cancelled by alice."]


@pytest.mark.slow
def test_one_that_is_called_off_does_not_wait_for_the_plans_before_it(site):
    site.hub.faults.add(Fault(match="api/models/alice/tiny-lora", hang=15, times=4))
    before = [site.ask(verb="plan", to=f"alice/flow-before-{n}") for n in range(8)]
    id_ = site.ask(verb="plan", to="alice/flow-off-queued")
    site.start()
    site.until(lambda: sum(site.office.entry(i).now.stage == "planning" for i in before) >= 4)
    began = time.monotonic()
    site.office.cancel(id_, by="alice")
    assert site.ended(id_).state == "skipped"
    assert time.monotonic() - began < 8
    assert any(site.office.entry(i).state in ACTIVE for i in before)


@pytest.mark.slow
def test_cancelled_while_planning_it_is_gone_within_seconds(site, slow_hub):
    site.start()
    id_ = site.ask(verb="plan", to="alice/flow-planning")
    site.reaches(id_, "planning")
    began = time.monotonic()
    site.office.cancel(id_, by="alice")
    entry = site.ended(id_)
    assert (entry.state, entry.outcome.failure.code) == ("skipped", "cancelled")
    site.until(lambda: site.leftovers() == [])
    assert time.monotonic() - began < 10
    assert site.office.retry(id_, by="alice").attempt == 2
    again = site.ended(id_)
    assert (again.state, again.outcome.plan.base.location) == ("skipped", "acme/tiny")


@pytest.mark.slow
def test_cancelled_while_merging_nothing_is_left_and_it_can_be_tried_again(site):
    """It goes on as long as one of the two who want it does."""
    site.start()
    first, second = site.ask(to="alice/flow-off"), site.ask(to="alice/flow-off", by="bob")
    site.reaches(first, "merging")
    site.reaches(second, "merging")
    site.office.cancel(first, by="alice")
    entry = site.ended(first)
    assert (entry.state, entry.outcome.failure.code) == ("skipped", "cancelled")
    other = site.office.entry(second)
    assert (other.state, other.make) == ("running", entry.make)
    began = time.monotonic()
    site.office.cancel(second, by="bob")
    assert site.ended(second).outcome.failure.code == "cancelled"
    site.until(lambda: site.leftovers() == [])
    assert time.monotonic() - began < 15
    assert site.commits("alice/flow-off") == []
    again = site.office.retry(second, by="bob")
    assert (again.attempt, again.make) == (2, "")
    entry = site.ended(second)
    assert (entry.state, entry.make) == ("published", f"{other.make[:-2]}-2")
    assert site.office.entry(first).state == "skipped"


@pytest.mark.slow
def test_a_paused_worker_s_job_is_taken_over_and_a_living_one_s_is_not(site, slow_hub):
    """Two machines on one database. One is paused in the middle of its job, and comes back when all is over."""
    site.start("one")
    id_ = site.ask(verb="plan", to="alice/flow-two")
    site.reaches(id_, "planning")
    owner = site.office.entry(id_).worker
    site.workers[0].send_signal(signal.SIGSTOP)
    site.start("two")
    entry = site.ended(id_)
    assert (entry.state, entry.outcome.failure) == ("skipped", None), site.logs()
    assert entry.worker == site.name(site.workers[1]) != owner
    time.sleep(1.5 * LEASE)  # the second one lives, and nobody takes anything of it
    site.workers[0].send_signal(signal.SIGCONT)
    assert site.workers[0].wait(60) == 0  # it hears that it is not the owner any more, and stops
    assert site.workers[1].poll() is None
    assert site.office.entry(id_) == entry


@pytest.mark.slow
def test_told_to_stop_it_hands_back_what_it_has(site, slow_hub):
    worker = site.start()
    id_ = site.ask(verb="plan", to="alice/flow-drained")
    site.reaches(id_, "planning")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert site.office.entry(id_).state == "running"
    site.start("another", lease=600)  # which would not take anything over for long: it was handed back
    entry = site.ended(id_)
    assert (entry.state, entry.outcome.failure) == ("skipped", None), site.logs()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"drop_after": 40}, {"hang": 0.5}])
def test_a_hub_that_stumbles_is_tried_again(site, fault):
    site.environment["MERGE_BOT_ATTEMPTS"] = "1"  # the step itself has to begin again
    site.hub.faults.add(Fault(match="api/models/alice/tiny-lora", times=3, **fault))
    site.start()
    entry = site.ended(site.ask(verb="plan", to=f"alice/flow-{fault}"))
    assert (entry.state, entry.outcome.failure) == ("skipped", None), site.logs()
    assert entry.outcome.plan


@pytest.mark.slow
def test_a_database_that_is_locked_for_thirty_seconds_loses_nothing(site):
    site.start(lease=120)
    before = site.ask(verb="plan", to="alice/flow-before")
    holder = sqlite3.connect(site.root / "bot.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    time.sleep(30)
    holder.execute("ROLLBACK")
    holder.close()
    after = site.ask(verb="plan", to="alice/flow-after")
    entry = site.ended(before, after)
    assert [site.office.entry(i).outcome.failure for i in (before, after)] == [None, None], site.logs()
    assert entry.attempt == 1


@pytest.mark.slow
def test_what_its_executor_has_claimed_and_dropped_is_begun_again_without_a_restart(site):
    """As after a full disk: the row says that it is begun, its executor lives, and nobody works on it."""
    id_ = site.ask("alice/nowhere", verb="plan")
    set_ = text("UPDATE workflow_status SET status = 'PENDING', executor_id = :name")
    site.database.write(lambda connection: connection.execute(set_, {"name": "nobody"}))
    worker = site.start(lease=600)
    name = site.name(worker)
    site.database.write(lambda connection: connection.execute(set_, {"name": name}))
    assert site.ended(id_, seconds=120).attempt == 1
    assert worker.poll() is None


@pytest.mark.slow
def test_a_postgres_that_is_stopped_and_started_again_loses_nothing(tmp_path, hub, slow_postgres):
    site = Site(slow_postgres.fresh(), hub=hub, root=tmp_path)
    try:
        site.start(lease=120)
        hub.faults.add(Fault(match="api/models/alice/tiny-lora", hang=3, times=1))
        id_ = site.ask(verb="plan", to="alice/flow-postgres")
        site.reaches(id_, "planning")
        slow_postgres.stop()
        time.sleep(10)
        slow_postgres.start()
        entry = site.ended(id_)
        assert (entry.state, entry.outcome.failure, entry.attempt) == ("skipped", None, 1), site.logs()
        assert entry.outcome.plan
    finally:
        hub.clear_faults()
        site.close()


@pytest.fixture
def slow_postgres():
    if not private.program("initdb"):
        pytest.skip("PostgreSQL is not installed")
    with private.running() as server:  # one of its own, for it is stopped in the middle
        yield server
