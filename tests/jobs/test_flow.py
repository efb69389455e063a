"""Jobs through the real flow: workers as processes, real merges of tiny models, a Hub on this machine, and kill -9."""

import signal
import time

import pytest

from bot.jobs.order import ACTIVE
from tests.e2e import hub, models
from tests.hub.faults import Fault
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
@pytest.mark.timeout(600)
def test_kill_minus_nine_at_every_stage(site):
    """One job, and a worker that is killed as soon as the job gets further, again and again until it is published."""
    worker = site.start()
    id_ = site.ask(to="alice/flow-killed", kind="hub_pr" if False else "repository")
    seen = []
    deadline = time.monotonic() + 400
    while site.office.entry(id_).state in ACTIVE:
        assert time.monotonic() < deadline, site.logs()
        now = site.office.entry(id_)
        at = (
            now.state,
            now.now.stage,
            bool(now.make),
            len(words(site, id_)) and words(site, id_)[-1].split()[0],
        )
        if at not in seen:
            seen.append(at)
            site.kill(worker)
            worker = site.start()
        time.sleep(0.01)
    entry = site.ended(id_)
    assert entry.state == "published", (seen, entry.outcome.failure, site.logs())
    assert len(seen) > 6
    print(seen)
    assert len(site.commits("alice/flow-killed")) == 2
    site.until(lambda: site.leftovers() == [], seconds=10)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", ["queued", "planning", "merging", "validating"])
def test_cancelled_it_is_gone_within_seconds_and_can_be_tried_again(site, stage):
    worker = None if stage == "queued" else site.start()
    id_ = site.ask(to=f"alice/flow-off-{stage}")
    if worker:
        site.reaches(id_, stage)
    assert site.office.cancel(id_, by="alice").state == "cancelling"
    worker = worker or site.start()
    began = time.monotonic()
    entry = site.ended(id_, seconds=10)
    assert (entry.state, entry.outcome.failure.code) == ("skipped", "cancelled")
    site.until(lambda: site.leftovers() == [], seconds=10)
    assert time.monotonic() - began < 10
    assert site.commits(f"alice/flow-off-{stage}") == []
    if stage == "merging":
        assert site.office.retry(id_, by="alice").attempt == 2
        assert site.ended(id_).state == "published"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dead_worker_s_job_is_taken_over_and_a_living_one_s_is_not(site):
    """Two machines on one database. The first is paused in the middle of its merge, and comes back when all is over."""
    first = site.start("one")
    id_ = site.ask(to="alice/flow-two")
    site.reaches(id_, "merging")
    owner = site.office.entry(id_).worker
    site.start("two")
    time.sleep(1.5 * LEASE)  # the first lives
    assert site.office.entry(id_).worker == owner or site.office.entry(id_).state not in ACTIVE
    second = site.ask(to="alice/flow-three")
    site.until(lambda: site.office.entry(second).now.stage == "merging")
    paused = next(w for w in site.workers if site.office.entry(second).worker in site.name(w))
    paused.send_signal(signal.SIGSTOP)
    entry = site.ended(id_, second, seconds=120)
    assert entry.state == "published", site.logs()
    assert site.office.entry(id_).state == "published"
    paused.send_signal(signal.SIGCONT)
    assert paused.wait(20) == 0  # it hears that it is not the owner any more, and stops
    assert len(site.commits("alice/flow-three")) == 2
    assert first is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_told_to_stop_it_hands_back_what_it_has(site):
    worker = site.start()
    id_ = site.ask(to="alice/flow-drained")
    site.reaches(id_, "merging")
    worker.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert worker.wait(20) == 0
    assert time.monotonic() - began < 15
    assert site.office.entry(id_).state == "running"
    site.start("another", lease=600)  # which would not take anything over for long: it was handed back
    assert site.ended(id_).state == "published", site.logs()
    assert len(site.commits("alice/flow-drained")) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hub_that_stumbles_is_tried_again(site):
    site.hub.faults.add(Fault(match="alice/tiny-lora", status=500, times=12))
    site.start()
    entry = site.ended(site.ask(to="alice/flow-stumbles"), seconds=120)
    assert entry.state == "published", (entry.outcome.failure, site.logs())
