"""What every desk does with jobs: the one in memory that other tests use, and the ledger on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.errors import InputError
from bot.job import Now
from bot.jobs.ledger import Ledger
from bot.jobs.migration import opened
from tests.jobs.memory import MemoryDesk
from tests.jobs.orders import PUBLISHED, REFUSED, order


class LedgerDesk(Ledger):
    """With the short names of the desk in memory for what a worker does."""

    def begin(self, id_, **_):
        return super().begin(id_, self.entry(id_).attempt, worker="test-0")

    def tell(self, id_, now):
        return super().tell(id_, self.entry(id_).attempt, now)

    def end(self, id_, outcome):
        return super().end(id_, self.entry(id_).attempt, outcome)

    def write(self, id_, text):
        super().write(id_, [text])


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def desk(request, tmp_path):
    if request.param == "memory":
        yield MemoryDesk()
        return
    place = f"sqlite:///{tmp_path}/bot.db"
    database = opened(place if request.param == "sqlite" else request.getfixturevalue("postgres").fresh())
    yield LedgerDesk(database)
    database.close()


def test_a_job_is_begun_once_however_often_it_is_handed_in(desk):
    first = desk.enqueue(order())
    assert (first.state, first.attempt, first.now, first.outcome) == ("queued", 1, Now(), None)
    assert desk.enqueue(order()) == first
    desk.begin(order().job.key)
    assert desk.enqueue(order()).state == "running"
    assert len(desk.entries()) == 1


def test_an_ended_job_is_begun_anew_and_keeps_its_log(desk):
    key = desk.enqueue(order()).order.job.key
    desk.begin(key)
    desk.tell(key, Now(stage="merging", done=3, total=9))
    desk.write(key, "first")
    desk.end(key, REFUSED)
    assert (desk.entry(key).state, desk.entry(key).outcome) == ("refused", REFUSED)
    again = desk.enqueue(order())
    assert (again.state, again.attempt, again.started, again.ended) == ("queued", 2, None, None)
    assert (again.outcome, again.now) == (None, Now())
    desk.write(key, "second")
    assert [(line.number, line.text) for line in desk.lines(key)] == [(1, "first"), (2, "second")]
    assert [line.text for line in desk.lines(key, after=1)] == ["second"]
    assert len(desk.lines(key, limit=1)) == 1


def test_a_job_is_found_by_the_beginning_of_its_id(desk):
    given = order()
    twin = replace(given, job=replace(given.job, key=given.job.key[:12] + "f" * 20))
    desk.enqueue(given)
    assert desk.entry(given.job.key[:8]).order == given
    desk.enqueue(twin)
    assert desk.entry(twin.job.key[:13]).order == twin
    with pytest.raises(InputError) as caught:
        desk.entry(given.job.key[:12])
    assert caught.value.code == "ambiguous-id"
    assert desk.entry(given.job.key[:7]) is None
    assert desk.entry("0123456789") is None
    assert desk.lines("0123456789") == ()


def test_lists_show_the_newest_first_by_state_text_and_page(desk):
    orders = [order(f"ada/Adapter-{n}", by="Grace" if n == 3 else "ada") for n in range(6)]
    for given in orders:
        desk.enqueue(given)
    desk.begin(orders[1].job.key)
    desk.end(orders[2].job.key, PUBLISHED)
    newest = [entry.order.job.key for entry in desk.entries()]
    assert newest == [given.job.key for given in reversed(orders)]
    page = desk.entries(limit=4)
    rest = desk.entries(before=page[-1].created)
    assert [entry.order.job.key for entry in (*page, *rest)] == newest
    assert [e.order for e in desk.entries(states=frozenset({"running", "published"}))] == [
        orders[2],
        orders[1],
    ]
    assert [e.order for e in desk.entries(text="adapter-4")] == [orders[4]]
    assert [e.order for e in desk.entries(text="GRACE")] == [orders[3]]
    assert desk.entries(text="%") == ()
    counts = desk.counts()
    assert (counts["queued"], counts["running"], counts["published"], counts["failed"]) == (4, 1, 1, 0)


def test_cancelling_is_for_what_goes_on_and_retrying_for_what_has_ended(desk):
    key = desk.enqueue(order()).order.job.key
    assert desk.retry(key, by="ada").attempt == 1
    assert desk.cancel(key[:8], by="ada").state == "cancelling"
    assert desk.cancel(key, by="ada").state == "cancelling"
    assert [line.text for line in desk.lines(key)] == ["Cancelled by ada."]
    desk.end(key, replace(REFUSED, ended="skipped"))
    assert desk.cancel(key, by="ada").state == "skipped"
    again = desk.retry(key, by="grace")
    assert (again.state, again.attempt) == ("queued", 2)
    assert desk.lines(key)[-1].text == "Begun anew by grace."
    assert desk.cancel("0" * 32, by="ada") is desk.retry("0" * 32, by="ada") is None
