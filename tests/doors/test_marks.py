"""Which job a command means, and which run is at work on it: by the marks of our comments, on a code host in memory."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from bot.doors.github import answer
from bot.doors.thread import Thread
from bot.errors import HostError, StoppedError
from bot.job import Job, Now, Outcome
from bot.publish import comment as texts
from bot.publish.marker import Mark, find_job, job_marker
from tests.doors.memory import HEAD, NUMBER, Memory, ground, said

DOWN = HostError("GitHub answered with status 502.", advice="Later.", code="github-down")
OTHER = "/merge plan alice/other"


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """Every job fails at once: nobody listens where its Hub is."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MERGE_BOT_ATTEMPTS", "1")


@pytest.fixture
def forge():
    return Memory()


@pytest.fixture
def ask(forge, tmp_path):
    def ask(body, *, run="1-1", **more):
        return answer(said(body), ground=ground(forge, tmp_path / "work", run=run, **more))

    return ask


def job(forge, *, at=0, **mark):
    """A comment of a job, touched `at` seconds from now."""
    made = Mark(**{"job": "f" * 32, "state": "skipped", "run": "9-1", "head": HEAD, **mark})
    return forge.post_comment(NUMBER, job_marker(replace(made, at=int(time.time()) + at)) + "\nwords")


def state(forge, comment):
    return find_job(forge.said[comment.id].body).state


# which job is the last


def test_the_last_job_is_the_one_that_was_touched_last_in_however_old_a_comment(forge, ask):
    job(forge, at=-10, ask="/merge plan alice/none", job="a" * 32)
    job(forge, at=-500, ask=OTHER, job="b" * 32)
    ask("/merge status")
    assert "/c1)" in forge.bodies[-1]
    ((made, _),) = ask("/merge retry").results
    assert made.ask == "/merge plan alice/none"


def test_what_an_event_has_started_is_not_repeated(forge, ask):
    job(forge, at=-500, ask=OTHER, job="b" * 32)
    job(forge, at=-10, job="a" * 32)
    ((made, _),) = ask("/merge retry").results
    assert made.ask == OTHER


def test_a_job_that_goes_on_comes_before_one_that_has_ended_later(forge, ask):
    job(forge, at=-100, state="running", job="a" * 32)
    job(forge, at=-10, job="b" * 32)
    ask("/merge status")
    assert "/c1) is going on" in forge.bodies[-1]


def test_a_clock_that_was_wrong_makes_no_job_the_last(forge, ask):
    job(forge, at=90_000, ask=OTHER, job="b" * 32)
    job(forge, at=-10, ask="/merge plan alice/none", job="a" * 32)
    ((made, _),) = ask("/merge retry").results
    assert made.ask == "/merge plan alice/none"


# whose a comment is


@pytest.mark.parametrize(("at", "taken"), [(-100, False), (100, False), (-901, True), (901, True)])
def test_a_run_is_alive_by_its_last_edit_which_no_clock_puts_far_ahead(forge, ask, at, taken):
    ((made, _),) = ask("/merge plan alice/none").results
    running = Mark(job=made.thread, state="running", run="9-1", head=HEAD, at=int(time.time()) + at)
    forge.said[1] = replace(forge.said[1], body=job_marker(running) + "\nwords")
    answered = ask("/merge plan alice/none", run="2-1")
    assert (answered.results[0][1].failure is not None) == taken
    assert len(forge.said) == 1


def test_words_about_a_job_are_no_mark_of_it(forge, ask):
    ((made, _),) = ask("/merge plan alice/none").results
    job(forge, state="running", job="d" * 32)
    words = forge.bodies[1] + f"\n> job={made.thread} run=9-1"
    forge.said[2] = replace(forge.said[2], body=words)
    ask("/merge plan alice/none", run="2-1")
    assert forge.said[2].body == words
    assert find_job(forge.said[1].body).run == "2-1"


def test_a_run_whose_comment_was_taken_over_publishes_nothing(forge, tmp_path):
    made = Job(key=f"{'a' * 32}-{HEAD[:12]}", what="x", head_sha=HEAD, run="1-1")
    thread = Thread(made, number=NUMBER, ground=ground(forge, tmp_path))
    assert thread.begin() is None
    theirs = replace(forge.said[1], body=texts.working(replace(made, run="2-1"), Now(), at=1))
    forge.said[1] = theirs
    with pytest.raises(StoppedError) as caught:
        thread.check()
    assert caught.value.code == "done-elsewhere"
    thread.end(Outcome(ended="skipped"))
    assert forge.said[1] == theirs


# calling off


def test_a_run_that_does_not_answer_is_called_off_for_good(forge, ask):
    waits = []
    left = job(forge, at=-100, state="running", ask=OTHER)
    ask("/merge cancel", patience=60.0, sleep=waits.append)
    assert sum(waits) == 60
    assert state(forge, left) == "skipped"
    assert "did not answer" in forge.said[left.id].body
    ((made, _),) = ask("/merge retry").results
    assert made.ask == OTHER
    assert forge.reactions[:2] == ["eyes", "rocket"]


def test_a_run_that_died_long_ago_is_not_waited_for(forge, ask):
    left = job(forge, at=-4000, state="cancelling")
    ask("/merge cancel", patience=60.0, sleep=pytest.fail)
    assert state(forge, left) == "skipped"


def test_a_run_that_was_thought_dead_stops_before_it_publishes(forge, tmp_path):
    made = Job(key=f"{'a' * 32}-{HEAD[:12]}", what="x", ask="/merge x", head_sha=HEAD, run="1-1")
    thread = Thread(made, number=NUMBER, ground=ground(forge, tmp_path))
    thread.begin()
    answer(said("/merge cancel"), ground=ground(forge, tmp_path, run="2-1"))
    with pytest.raises(StoppedError, match="/merge cancel"):
        thread.check()


# a GitHub that stumbles


class Stumbling(Memory):
    """One call fails a few times, and then as often as it is asked for."""

    def __init__(self, name, times, error=DOWN):
        super().__init__()
        self.name, self.left, self.error = name, 0, error
        self.times = times

    def _may(self, name):
        if name == self.name and self.left > 0:
            self.left -= 1
            raise self.error


def a_thread(forge, tmp_path, waits, **more):
    made = Job(key=f"{'a' * 32}-{HEAD[:12]}", what="x", head_sha=HEAD, run="1-1")
    thread = Thread(made, number=NUMBER, ground=ground(forge, tmp_path, sleep=waits.append, **more))
    assert thread.begin() is None
    forge.left = forge.times
    return thread


def test_the_last_word_gets_through_a_github_that_is_down_for_minutes(tmp_path):
    forge, waits = Stumbling("edit_comment", 5), []
    thread = a_thread(forge, tmp_path, waits)
    thread.end(Outcome(ended="skipped"))
    assert find_job(forge.bodies[0]).state == "skipped"
    assert thread.note == ""
    assert waits == [5, 10, 20, 40, 60]


def test_the_last_word_is_not_tried_for_ever(tmp_path):
    forge, waits = Stumbling("edit_comment", 10**6), []
    thread = a_thread(forge, tmp_path, waits)
    thread.end(Outcome(ended="skipped"))
    assert "502" in thread.note
    assert 200 < sum(waits) <= 300


@pytest.mark.parametrize(("wait", "through"), [(1500.0, True), (4000.0, False)])
def test_the_last_look_waits_for_the_end_of_a_rate_limit(tmp_path, wait, through):
    limited = HostError("The rate limit is reached.", advice="Later.", code="github-rate-limit", wait=wait)
    forge, waits = Stumbling("comment", 1, limited), []
    thread = a_thread(forge, tmp_path, waits)
    if through:
        thread.check()
        assert waits == [wait]
    else:
        with pytest.raises(HostError):
            thread.check()
        assert waits == []


def test_the_last_look_goes_through_a_github_that_stumbles(tmp_path):
    forge, waits = Stumbling("comment", 3), []
    a_thread(forge, tmp_path, waits).check()
    assert waits == [5, 10, 20]
