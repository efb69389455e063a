"""GitHub's door in the service: what becomes of a command, across the database and a restart, by the real PyGithub."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bot.clients.github import GitHub
from bot.doors.github import answer
from bot.errors import StoppedError
from bot.job import Now, Outcome
from bot.jobs import ordering
from bot.jobs.order import Order
from bot.publish.marker import find_job
from bot.serial import as_dict, from_dict
from bot.trigger.github import event
from tests.clients.github_fixtures import ADAPTER, REPO, clock, forge
from tests.doors import memory
from tests.jobs.memory import MemoryDesk

__all__ = ["clock", "forge"]
BOT = "acme-merger[bot]"


@pytest.fixture
def desk():
    return MemoryDesk()


@pytest.fixture
def service(forge, desk, tmp_path):
    """A process of the service: a client of its own each time, as after a restart."""

    def service(run="delivery-1", **more):
        token = forge.app_token("acme-merger", REPO)
        made = memory.ground(None, tmp_path, run=run, to="alice/out")
        return replace(
            made,
            connect=lambda: GitHub(REPO, token=token, api_url=forge.url, timeout=3.0),
            settle=ordering.Enqueueing(desk=desk),
            jobs=ordering.Queue(desk=desk),
            **more,
        )

    return service


@pytest.fixture
def command(forge, service):
    """wendy writes a comment, and its delivery is answered."""

    def command(body, *, run="delivery-1"):
        said = forge.say(REPO, 1, body, author="wendy")
        payload = {
            "action": "created",
            "issue": {"number": 1, "title": "Add", "body": "", "pull_request": {}},
            "comment": {"id": said.id, "body": body, "user": {"login": "wendy", "type": "User"}},
        }
        answer(event("issue_comment", payload, delivery=run), ground=service(run))
        return said

    return command


def bodies(forge):
    return [said.body for said in forge.comments(REPO) if said.author == BOT]


def stored(entry):
    """The order, as it comes back from the database."""
    return from_dict(Order, json.loads(json.dumps(as_dict(entry.order))))


def reactions(said):
    return [content for _, content in said.reactions.values()]


def test_a_command_becomes_one_order_that_survives_the_database(forge, desk, command, service):
    pull = forge.open_pull(REPO, ADAPTER)
    said = command("/merge")
    command("/merge", run="delivery-2")
    (entry,) = desk.jobs.values()
    order = stored(entry)
    assert order == entry.order
    assert order.origin.comment == str(said.id)
    assert (order.target.folder, order.job.head_sha) == ("adapter", pull.head_sha)
    assert order.job.key.endswith(f"-{pull.head_sha[:12]}")
    here = service()
    seen = here.forge.pull_request(1)
    assert ordering.order_of(ordering.task_of(order), pull=seen, ground=here) == order
    assert bodies(forge) == []
    assert reactions(said) == ["eyes"]


def test_another_process_takes_over_the_comment_and_ends_it(forge, desk, command, service, tmp_path):
    forge.open_pull(REPO, ADAPTER)
    said = command("/merge")
    order = stored(next(iter(desk.jobs.values())))
    first = ordering.answering(order, ground=service())
    assert first.begin() is None
    first.tell(Now(stage="merging", done=43, total=100))
    assert f"[Log]({service().url}/jobs/{order.job.key})" in bodies(forge)[0]
    second = ordering.answering(order, ground=service())  # kill -9, and on
    assert second.begin() is None
    request = ordering.request(order, ground=service())
    assert sorted(p.name for p in (tmp_path / "delivery-1").rglob("adapter_*"))
    assert request.adapter.startswith(str(tmp_path))
    second.check()
    second.end(Outcome(ended="skipped"))
    second.end(Outcome(ended="skipped"))
    (body,) = bodies(forge)
    assert find_job(body).state == "skipped"
    assert reactions(said) == ["eyes", "rocket"]
    assert [run["conclusion"] for run in forge.state.repos[REPO].runs] == ["success"]


def test_status_and_cancel_speak_with_the_queue(forge, desk, command, service):
    forge.open_pull(REPO, ADAPTER)
    command("/merge")
    (key,) = desk.jobs
    ordering.answering(desk.jobs[key].order, ground=service()).begin()
    command("/merge status", run="delivery-2")
    assert "waits in the queue" in bodies(forge)[-1]
    desk.begin(key)
    said = command("/merge cancel", run="delivery-3")
    assert desk.jobs[key].state == "cancelling"
    assert [line.text for line in desk.lines(key)] == ["Cancelled by wendy."]
    assert reactions(said) == ["eyes", "rocket"]


def test_retry_begins_the_job_anew_and_a_push_makes_another(forge, desk, command, service):
    forge.open_pull(REPO, ADAPTER)
    command("/merge")
    (key,) = desk.jobs
    done = ordering.answering(desk.jobs[key].order, ground=service())
    done.begin()
    done.end(Outcome(ended="failed"))
    desk.end(key, Outcome(ended="failed"))
    command("/merge retry", run="delivery-2")
    assert (desk.jobs[key].attempt, desk.jobs[key].state) == (2, "queued")
    forge.commit(REPO, {**ADAPTER, "more": "x"}, branch="add-adapter")
    command("/merge", run="delivery-3")
    assert len(desk.jobs) == 2
    orders = [entry.order.job for entry in desk.jobs.values()]
    assert orders[0].thread == orders[1].thread
    again = ordering.answering(desk.jobs[orders[1].key].order, ground=service("delivery-3"))
    assert again.begin() is None
    assert len(bodies(forge)) == 1


def test_the_job_of_a_gone_github_pr_is_stopped_in_its_comment(forge, desk, command, service):
    forge.open_pull(REPO, ADAPTER)
    command("/merge")
    order = stored(next(iter(desk.jobs.values())))
    thread = ordering.answering(order, ground=service())
    thread.begin()
    forge.close_pull(REPO, 1)
    with pytest.raises(StoppedError, match="closed meanwhile"):
        thread.check()
