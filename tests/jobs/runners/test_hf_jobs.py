"""The runner hf-jobs against a Hub on this machine, which runs each job as a process: begun once, found again, paid."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bot import pipeline, settings
from bot.clients.hub_jobs import LABEL, OWN, WORD
from bot.connect import hub_jobs
from bot.errors import AccessError, HostError, StoppedError
from bot.jobs.order import Origin
from bot.jobs.runners import word
from bot.jobs.runners.hf_jobs import HfJobs, Rental, label
from bot.jobs.runners.rent import Terms
from bot.jobs.runners.runner import Make, pinned
from bot.progress import Silent
from bot.request import Destination, MergeRequest
from bot.serial import from_dict, to_json
from tests.e2e import ADAPTER, BASE, desk, hub, models

__all__ = ["desk", "hub", "models"]
HERE = Path(__file__).parents[3]
IMAGE = "merge-bot:test"


@pytest.fixture
def rented(desk):
    """Alice's desk, with no job on the Hub's machines yet."""
    jobs = desk.hub.jobs
    jobs.all.clear()
    jobs.delay, jobs.hardware, jobs.filters = 0.0, list(jobs.hardware), True
    yield desk
    jobs.close()
    for job in jobs.all.values():
        assert until(lambda job=job: job.ended)


def until(true, *, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


async def soon(true, *, within=60.0):
    """Waits until it is, in the event loop."""
    deadline = time.monotonic() + within
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.01)


def make(to="alice/rented", **changes):
    asked = MergeRequest(
        adapter=ADAPTER,
        destination=Destination(kind="repository", location=to),
        reload="never",
        requested_by="bob",
        **changes,
    )
    plan = pipeline.plan(asked, settings=settings.load(), progress=Silent())
    return Make(
        id=f"{plan.key}-{to}",
        request=pinned(asked, plan),
        plan=plan,
        origin=Origin(host="cli"),
        runner="hf-jobs",
    )


def rental(**changes):
    return Rental(namespace="alice", image=IMAGE, every=0.1, terms=Terms(**changes))


class Ears:
    """What `tell` and `log` hear."""

    def __init__(self):
        self.now, self.lines, self.asked = [], [], []

    async def gate(self, what):
        self.asked.append(what.id)

    async def carried_out(self, what, where=None):
        runner = HfJobs(where or rental(), settings=settings.load(), gate=self.gate)
        return await runner.carry_out(what, tell=self.now.append, log=self.lines.append)

    def outcome(self, what, where=None):
        return asyncio.run(self.carried_out(what, where))


@pytest.fixture
def ears():
    return Ears()


def only(rented):
    (job,) = rented.hub.jobs.all.values()
    return job


def running(rented):
    return any(job.process for job in [*rented.hub.jobs.all.values()])


def published(rented, repo_id):
    return rented.hub.state.store.find("model", repo_id)


@pytest.mark.slow
def test_an_order_is_merged_on_a_rented_machine_and_published_from_there(rented, ears):
    rented.hub.clear_requests()
    what = make()
    outcome = ears.outcome(what)

    assert outcome.ended == "published"
    assert outcome.publication.url == f"{rented.hub.url}/alice/rented"
    assert outcome.report.verdict == "passed"
    assert outcome.plan.base == replace(what.plan.base, revision=what.plan.base.commit)
    assert outcome.plan.key == what.plan.key
    assert outcome.plan.adapter.kind == outcome.plan.base.kind == "hub"
    assert ears.asked == [what.id]
    job = only(rented)
    assert job.stage == "COMPLETED"
    assert outcome.bill.machine == job.spec["flavor"] == "cpu-basic"
    assert outcome.bill.dollars == pytest.approx(outcome.bill.seconds / 60 * 0.000167)
    assert outcome.bill.url.endswith(f"/jobs/alice/{job.id}")
    assert {now.stage for now in ears.now} >= {"planning", "fetching", "merging", "validating", "publishing"}
    assert ears.lines[0].startswith("Renting cpu-basic: about 2 min")
    # Adapter and base are mounted, read-only, at the plan's commits; none of their files is downloaded.
    volumes = {v["source"]: v for v in job.spec["volumes"]}
    assert {name: v["revision"] for name, v in volumes.items()} == {
        ADAPTER: what.plan.adapter.commit,
        BASE: what.plan.base.commit,
    }
    assert all(v["readOnly"] and v["type"] == "model" for v in volumes.values())
    whole = [
        r for r in rented.hub.requests if r.path.startswith("/blobs/") and r.method == "GET" and not r.range
    ]
    assert not whole
    # What it published speaks of the Hub, not of folders.
    texts = {
        name: path.read_text()
        for name, path in rented.hub.files("alice/rented").items()
        if name[-5:] == ".json"
    }
    assert BASE in texts["merge_provenance.json"]
    assert not [name for name, text in texts.items() if "/mnt/" in text or str(rented.root) in text]
    # Tokens travel as secrets only.
    assert set(job.spec["secrets"]) == {"MERGE_BOT_READ_TOKEN", "MERGE_BOT_WRITE_TOKEN"}
    assert rented.hub.token("alice") not in str({k: v for k, v in job.spec.items() if k != "secrets"})
    assert job.spec["timeoutSeconds"] == 1800


@pytest.mark.slow
def test_what_is_not_wanted_any_more_is_not_published(rented, ears, monkeypatch):
    what = make("alice/not-wanted", validation="structure")

    async def gate(_):
        ears.asked.append(published(rented, "alice/not-wanted"))
        raise StoppedError("Nobody wants it any more.", advice="-", code="cancelled")

    monkeypatch.setattr(ears, "gate", gate)
    outcome = ears.outcome(what)
    assert (outcome.ended, outcome.failure.code) == ("skipped", "cancelled")
    assert outcome.bill.machine == "cpu-basic"
    assert ears.asked == [None]
    assert only(rented).stage == "CANCELED"
    assert published(rented, "alice/not-wanted") is None
    assert "publishing" not in {now.stage for now in ears.now}


def test_the_word_is_given_once_and_a_question_that_could_not_be_decided_is_asked_again(stuck, ears):
    what = make("alice/word")

    async def asked(stopped=False):
        task = asyncio.create_task(ears.carried_out(what))
        await soon(lambda: running(stuck))
        if not ears.asked:
            only(stuck).say('{"now": ["publishing", 1, 2]}')
            only(stuck).say('{"gate": 1}')
        await soon(lambda: task.done() or (stopped and ears.lines[-1].startswith("Taken up")))
        await asyncio.sleep(0.5)
        return task

    async def all_of_it():
        with pytest.MonkeyPatch.context() as patch:

            async def away(_):
                ears.asked.append("away")
                raise HostError("The database is away.", advice="-", code="database-gone")

            patch.setattr(ears, "gate", away)
            with pytest.raises(HostError, match="database"):
                await (await asked())
        assert (only(stuck).ended, WORD in only(stuck).spec["labels"]) == (False, False)
        assert {now.stage for now in ears.now} == {"validating"}
        task = await asked(stopped=True)
        assert only(stuck).spec["labels"][WORD] == only(stuck).id
        assert only(stuck).spec["labels"][LABEL] == label(what)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(all_of_it())
    assert ears.asked == ["away", what.id]


def test_without_a_word_nothing_is_published_and_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr(word, "PATIENCE", 0.2)
    monkeypatch.setattr(word, "EVERY", 0.05)
    looks = []

    class Jobs:
        def find(self, own, *, label):
            looks.append((own, label))
            if len(looks) == 1:
                raise HostError("The Hub is away.", advice="-", code="hub-away")
            return ()

    monkeypatch.setattr(word, "hub_jobs", lambda *_, **__: Jobs())
    with pytest.raises(HostError) as error:
        word.wait_for_word("key", namespace=None, settings=settings.load())
    assert error.value.code == "job-unanswered"
    assert len(looks) > 1


def test_the_word_for_one_job_is_none_for_another_try_at_the_same_nor_for_a_copy(stuck, monkeypatch):
    monkeypatch.setattr(word, "PATIENCE", 0.2)
    monkeypatch.setattr(word, "EVERY", 0.05)
    what, jobs = make("alice/word"), hub_jobs(settings.load(), namespace="alice")

    def begun():
        """A try at it that works, and what its command waits for."""
        job, _ = HfJobs(rental(), settings=settings.load())._begun(what, jobs, jobs.hardware(), print)
        command = stuck.hub.jobs.all[job.id].spec["command"]
        return job, command[command.index("--job") + 1]

    def heard(own):
        with suppress(HostError):
            word.wait_for_word(own, namespace="alice", settings=settings.load())
            return True
        return False

    first, own = begun()
    assert not heard(own)
    labels = jobs.allow(first).labels
    assert heard(own)
    jobs.cancel(first.id)
    assert until(lambda: stuck.hub.jobs.all[first.id].ended)
    assert not heard(own)

    second, other = begun()
    assert second.labels[LABEL] == first.labels[LABEL]
    assert second.labels[OWN] == other != own
    assert not heard(other)
    stuck.hub.jobs.all[second.id].spec["labels"] = dict(labels)
    assert not heard(own)
    stuck.hub.jobs.all[second.id].spec["labels"] = dict(second.labels)
    jobs.allow(second)
    assert heard(other)


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_a_job_that_the_next_one_takes_up(rented, ears, tmp_path):
    what = make("alice/after-a-kill")
    script = f"""
import asyncio, sys
from bot import settings
from bot.jobs.runners.hf_jobs import HfJobs, Rental
from bot.jobs.runners.runner import Make
from bot.serial import from_dict
import json
make = from_dict(Make, json.loads(open({str(tmp_path / "make.json")!r}).read()))
runner = HfJobs(Rental(namespace="alice", image={IMAGE!r}, every=0.1), settings=settings.load())
asyncio.run(runner.carry_out(make, tell=lambda now: None, log=print))
"""
    (tmp_path / "make.json").write_text(to_json(what))
    assert from_dict(Make, json.loads(to_json(what))) == what
    worker = subprocess.Popen(
        [sys.executable, "-c", script], cwd=HERE, env={**os.environ, "PYTHONPATH": str(HERE)}
    )
    assert until(lambda: any(job.log for job in [*rented.hub.jobs.all.values()]))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not only(rented).ended

    outcome = ears.outcome(what)
    assert outcome.ended == "published"
    assert ears.lines[0] == f"Taken up again: {rented.hub.url}/jobs/alice/{only(rented).id}"
    assert len(published(rented, "alice/after-a-kill").branches) == 1
    # And a worker that comes when all is over finds that, too.
    again = Ears()
    assert again.outcome(what).publication == outcome.publication
    assert again.lines[0].startswith("It was done meanwhile: ")
    assert len(rented.hub.jobs.all) == 1


def test_called_off_it_is_cancelled_on_the_hub(rented, ears):
    what = make("alice/called-off")

    async def called_off():
        task = asyncio.create_task(ears.carried_out(what))
        await soon(lambda: running(rented))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(called_off())
    assert until(lambda: only(rented).ended)
    assert only(rented).stage == "CANCELED"
    assert published(rented, "alice/called-off") is None


def test_another_executor_calls_off_what_a_killed_one_has_rented(rented, ears):
    what = make("alice/left-behind")

    async def left():
        runner = HfJobs(
            rental(), settings=settings.load(), keeps=lambda: True
        )  # the job stays, as after kill -9
        task = asyncio.create_task(runner.carry_out(what, tell=ears.now.append, log=ears.lines.append))
        await soon(lambda: running(rented))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(left())
    assert not only(rented).ended
    HfJobs(rental(), settings=settings.load()).call_off(what.id)
    assert until(lambda: only(rented).ended)
    assert only(rented).stage == "CANCELED"
    assert published(rented, "alice/left-behind") is None


def test_a_list_that_the_hub_has_not_filtered_touches_no_other_job(stuck):
    stuck.hub.jobs.filters = False
    jobs, runner = hub_jobs(settings.load(), namespace="alice"), HfJobs(rental(), settings=settings.load())
    foreign = stuck.hub.jobs.start("alice", {"flavor": "cpu-basic", "dockerImage": IMAGE, "command": []})
    other, mine = make("alice/other"), make("alice/mine")
    first, _ = runner._begun(other, jobs, jobs.hardware(), print)
    second, _ = runner._begun(mine, jobs, jobs.hardware(), print)
    assert first.id != second.id
    runner.call_off(mine.id)
    assert until(lambda: stuck.hub.jobs.all[second.id].ended)
    assert not stuck.hub.jobs.all[first.id].ended
    assert not foreign.ended
    assert [one.id for one in jobs.find(label(other))] == [first.id]


def test_called_off_while_it_is_started_it_leaves_no_job_behind(rented, ears):
    what = make("alice/called-off")
    rented.hub.jobs.delay = 30

    async def called_off():
        task = asyncio.create_task(ears.carried_out(what))
        await soon(lambda: rented.hub.jobs.all)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(called_off())
    assert until(lambda: only(rented).ended)


@pytest.mark.slow
def test_two_workers_at_once_end_up_with_one_job(rented):
    rented.hub.jobs.delay = 2.0
    what = make("alice/twice")

    async def both():
        tasks = [asyncio.create_task(Ears().carried_out(what)) for _ in range(2)]
        # Each has found none, and started one; on a slow machine one may be found.
        with suppress(TimeoutError):
            await soon(lambda: len(rented.hub.jobs.all) == 2, within=10)
            await soon(lambda: any(job.called_off for job in [*rented.hub.jobs.all.values()]))
        await asyncio.sleep(0.2)
        going = [job for job in rented.hub.jobs.all.values() if not job.ended]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return going

    assert len(asyncio.run(both())) == 1


def endless(rented):
    """A machine on which nothing gets done: the image's program sleeps."""
    jobs = rented.hub.jobs
    started = jobs.start

    def start(namespace, spec):
        return started(namespace, {**spec, "command": ["sh", "-c", "exec sleep 60", *spec["command"]]})

    return start


@pytest.fixture
def stuck(rented, monkeypatch):
    """Its jobs never end by themselves."""
    monkeypatch.setattr(rented.hub.jobs, "start", endless(rented))
    return rented


@pytest.mark.parametrize(
    ("end", "ended", "code", "says"),
    [
        (lambda jobs, job: jobs.cancel(job), "skipped", "job-cancelled", "was cancelled on the Hub"),
        (lambda jobs, job: job.kill(), "failed", "job-memory", "ran out of memory on cpu-basic"),
        (lambda jobs, job: job.process.terminate(), "failed", "job-failed", "exit code: -15"),
        (lambda jobs, job: jobs._too_late(job), "failed", "job-timeout", "was not done in"),
    ],
    ids=["cancelled there", "memory", "program", "time"],
)
def test_how_a_job_can_end_is_one_clear_sentence(stuck, end, ended, code, says):
    async def carried_out():
        task = asyncio.create_task(Ears().carried_out(make("alice/ends")))
        await soon(lambda: running(stuck))
        end(stuck.hub.jobs, only(stuck))
        return await task

    outcome = asyncio.run(carried_out())
    assert (outcome.ended, outcome.failure.code) == (ended, code)
    assert says in outcome.failure.sentence
    assert outcome.bill is not None


def test_an_image_that_cannot_be_pulled(rented, ears):
    outcome = ears.outcome(make("alice/no-image"), replace(rental(), image="nobody/has:this"))
    assert outcome.failure.code == "job-image"
    assert "image could not be fetched (Failed to pull image: ImagePullBackOff)" in outcome.failure.sentence
    assert outcome.bill.dollars == 0


def test_what_would_cost_too_much_is_refused_before_anything_is_started(rented, ears):
    rented.hub.jobs.hardware = [{**rented.hub.jobs.hardware[0], "unitCostUSD": 0.6}]  # a cent a second
    outcome = ears.outcome(make("alice/dear"), rental(dollars=1.0))
    assert (outcome.ended, outcome.failure.code) == ("refused", "job-too-dear")
    assert "about $1.20 on cpu-basic, and $1.00 is allowed" in outcome.failure.sentence
    assert not rented.hub.jobs.all


def test_the_time_that_is_paid_for_is_the_jobs_time_out(stuck, ears, monkeypatch):
    monkeypatch.setattr("bot.jobs.runners.rent.START", 1.0)
    stuck.hub.jobs.hardware = [{**stuck.hub.jobs.hardware[0], "unitCostUSD": 0.6}]
    outcome = ears.outcome(make("alice/dear"), rental(dollars=0.02))
    assert only(stuck).spec["timeoutSeconds"] == 2
    assert (outcome.ended, outcome.failure.code) == ("refused", "job-cost")
    assert "when it had cost the $0.02 that are allowed" in outcome.failure.sentence
    assert outcome.bill.dollars == pytest.approx(0.02)


def test_what_earlier_tries_have_cost_counts_so_that_a_make_never_costs_more(stuck, ears, monkeypatch):
    monkeypatch.setattr("bot.jobs.runners.rent.START", 1.0)
    stuck.hub.jobs.hardware = [{**stuck.hub.jobs.hardware[0], "unitCostUSD": 0.6}]
    what = make("alice/again")
    assert ears.outcome(what, rental(dollars=0.02)).failure.code == "job-cost"
    again = ears.outcome(what, rental(dollars=0.02))
    assert (again.ended, again.failure.code) == ("refused", "job-too-dear")
    assert only(stuck)
    assert ears.lines[-1] == "Earlier tries at it have cost $0.02, which counts."


def test_what_earlier_attempts_have_cost_counts_but_for_what_was_brought_to_its_end(stuck, ears, monkeypatch):
    monkeypatch.setattr("bot.jobs.runners.rent.START", 1.0)
    stuck.hub.jobs.hardware = [{**stuck.hub.jobs.hardware[0], "unitCostUSD": 0.6}]
    first = replace(make("alice/attempts"), id="1234-1")
    assert ears.outcome(first, rental(dollars=0.02)).failure.code == "job-cost"
    second = ears.outcome(replace(first, id="1234-2"), rental(dollars=0.02))
    assert (second.failure.code, ears.lines[-1]) == (
        "job-too-dear",
        "Earlier tries at it have cost $0.02, which counts.",
    )
    only(stuck).stage = "COMPLETED"
    assert ears.outcome(replace(first, id="1234-3"), rental(dollars=0.02)).failure.code == "job-cost"


def test_a_hub_that_stumbles_is_waited_for(stuck, ears, monkeypatch):
    """The status cannot be asked for, a while; nor the log be read to its end."""
    monkeypatch.setattr("bot.jobs.runners.listening.AGAIN", 0.1)
    stuck.hub.fault("/api/jobs/alice/", status=503, times=2)
    stuck.hub.fault("/logs", drop_after=80, times=2)

    async def carried_out():
        task = asyncio.create_task(ears.carried_out(make("alice/stumbles")))
        await soon(lambda: running(stuck))
        job = only(stuck)
        for number in range(5):
            job.say(f'{{"say": "line {number}"}}')
            await asyncio.sleep(0.2)
        job.process.terminate()
        return await task

    assert asyncio.run(carried_out()).failure.code == "job-failed"
    assert [line for line in ears.lines if line.startswith("line ")] == [
        f"line {number}" for number in range(5)
    ]


def test_a_hub_that_is_away_for_a_while_ends_no_job_that_is_followed(stuck, ears):
    stuck.set(MERGE_BOT_ATTEMPTS="1")

    async def carried_out():
        task = asyncio.create_task(ears.carried_out(make("alice/away")))
        await soon(lambda: running(stuck))
        stuck.hub.fault(f"/api/jobs/alice/{only(stuck).id}$", status=503, times=8)
        await soon(lambda: "looked at again" in ears.lines[-1])
        await asyncio.sleep(1)
        only(stuck).process.terminate()
        return await task

    assert asyncio.run(carried_out()).failure.code == "job-failed"
    assert len([line for line in ears.lines if "looked at again" in line]) == 1


def test_a_hub_that_is_away_for_long_is_left_to_whoever_called(stuck, ears, monkeypatch):
    monkeypatch.setattr("bot.jobs.runners.following.AWAY", 0.0)
    stuck.set(MERGE_BOT_ATTEMPTS="1")

    async def carried_out():
        task = asyncio.create_task(ears.carried_out(make("alice/long-away")))
        await soon(lambda: running(stuck))
        stuck.hub.fault(f"/api/jobs/alice/{only(stuck).id}$", status=503, times=8)
        with pytest.raises(HostError, match="503"):
            await task

    asyncio.run(carried_out())
    assert not only(stuck).ended


def test_a_hub_that_is_down_is_tried_again_by_whoever_called(rented, ears):
    rented.set(MERGE_BOT_ATTEMPTS="1")
    what = make("alice/down")
    rented.hub.fault("/api/jobs", status=500)
    with pytest.raises(HostError, match=re.escape("status 500")):
        ears.outcome(what)


def test_a_start_whose_answer_was_lost_is_not_made_twice(stuck, ears):
    stuck.hub.fault("/api/jobs/alice$", method="POST", drop_after=10, times=1)
    what = make("alice/lost")
    with pytest.raises(HostError):
        ears.outcome(what)

    async def again():
        task = asyncio.create_task(ears.carried_out(what))
        await soon(lambda: ears.lines and ears.lines[-1].startswith("Taken up again"))
        await soon(lambda: running(stuck))
        only(stuck).kill()
        return await task

    assert asyncio.run(again()).failure.code == "job-memory"
    assert len(stuck.hub.jobs.all) == 1


def test_a_service_that_is_stopped_leaves_the_job_to_whoever_comes_next(stuck, ears):
    async def stopped():
        runner = HfJobs(rental(), settings=settings.load(), keeps=lambda: True)
        task = asyncio.create_task(
            runner.carry_out(make("alice/kept"), tell=ears.now.append, log=ears.lines.append)
        )
        await soon(lambda: running(stuck))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    assert only(stuck).stage == "RUNNING"


def test_whoever_may_not_use_jobs_is_told(rented, ears):
    what = make("alice/forbidden")
    with pytest.raises(AccessError, match="not allowed"):
        ears.outcome(what, replace(rental(), namespace="bob"))


def test_a_folder_is_no_matter_for_it(rented, ears):
    folder = rented.adapter(base=BASE)
    asked = MergeRequest(adapter=str(folder), destination=Destination(kind="repository", location="alice/x"))
    plan = pipeline.plan(asked, settings=settings.load(), progress=Silent())
    what = Make(id="x", request=asked, plan=plan, origin=Origin(host="github"))
    outcome = ears.outcome(what)
    assert (outcome.ended, outcome.failure.code) == ("refused", "job-folder")
    assert not rented.hub.jobs.all


def test_the_label_is_one_that_the_hub_takes(rented):
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", label(make()))
