"""A document in the database that this version cannot read: its job says so, and all others go on."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from bot.errors import InputError
from bot.jobs import rows
from bot.jobs.answers import Answerer
from bot.jobs.flow import Flow
from bot.jobs.office import Office
from bot.jobs.order import ACTIVE
from bot.jobs.planning import Planning
from bot.jobs.queues import JOBS, LOCAL, Queues, job_id
from bot.jobs.scratch import Scratch
from bot.settings import Settings
from tests.jobs.orders import PUBLISHED, order

NEWER = json.dumps(json.loads(rows.document(order())) | {"priority": 3})
OTHER_HOST = NEWER.replace('"github"', '"forgejo"').replace(', "priority": 3', "")


@pytest.fixture
def office(database):
    queues = Queues(database)
    queues.prepare({JOBS: 1, LOCAL: 1})
    yield Office(database, queues)
    queues.close()


def spoilt(database, id_, document=NEWER, *, table="orders"):
    set_ = text(f"UPDATE merge_bot_{table} SET document = :document WHERE job = :id")
    database.write(lambda c: c.execute(set_, {"document": document, "id": id_}))


@pytest.mark.parametrize("document", [NEWER, OTHER_HOST, "", '{"job', "[]", "null", '{"job": 7}'])
def test_a_job_that_cannot_be_read_is_shown_and_keeps_nobody_from_anything(database, office, document):
    bad, good = (office.enqueue(order(f"ada/{name}")).order.job.key for name in ("bad", "good"))
    for id_ in (bad, good):
        office.join(id_, 1, "made")
    spoilt(database, bad, document)
    office.tidy()
    for found in (office.entries(states=ACTIVE), office.waiting("made-1"), office.joined("made-1")):
        entries = {entry.order.job.key: entry for entry in found}
        assert [entries[id_].readable for id_ in (bad, good)] == [False, True]
        assert entries[bad].state == "queued"
        assert entries[bad].outcome.failure.code == "unreadable-job"
    assert office.entry(good).outcome is None
    assert office.cancel(bad, by="ada").state == "cancelling"


def test_how_it_ended_stays_where_only_the_order_cannot_be_read_and_the_other_way_round(database, office):
    one, two = (office.enqueue(order(f"ada/{n}")).order.job.key for n in range(2))
    for id_ in (one, two):
        office.end(id_, 1, PUBLISHED)
    spoilt(database, one)
    spoilt(database, two, '{"ended": "archived"}', table="outcomes")
    assert (office.entry(one).outcome, office.entry(one).readable) == (PUBLISHED, False)
    entry = office.entry(two)
    assert (entry.state, entry.readable, entry.outcome.ended) == ("published", True, "published")
    assert entry.outcome.failure.code == "unreadable-job"


def test_nothing_is_done_for_it_and_after_the_upgrade_it_can_be_tried_again(database, office, tmp_path):
    planning = Planning(settings=Settings(), ledger=office, scratch=Scratch(tmp_path / "scratch"))
    flow = Flow(
        executor="one", settings=Settings(), ledger=office, queues=office._queues, answers=Answerer(),
        planning=planning, runners={},
    )  # fmt: skip
    id_ = office.enqueue(order()).order.job.key
    spoilt(database, id_)
    assert not flow.begin(id_, 1)
    flow.finish(id_, 1)
    flow.answer(id_, 1)
    entry = office.entry(id_)
    assert (entry.state, entry.outcome.failure.code) == ("failed", "unreadable-job")
    with pytest.raises(InputError) as caught:
        office.retry(id_, by="ada")
    assert caught.value.code == "unreadable-job"
    spoilt(database, id_, rows.document(order()))
    assert office.retry(id_, by="ada") == replace(office.entry(id_), state="queued", attempt=2, outcome=None)
    assert office._queues.states([job_id(id_, 2)]) == {job_id(id_, 2): "ENQUEUED"}


def test_the_last_look_lets_it_not_be_published(database, office):
    id_ = office.enqueue(order()).order.job.key
    office.begin(id_, 1, worker="one")
    office.join(id_, 1, "made")
    spoilt(database, id_)
    flow = Flow(
        executor="one", settings=Settings(), ledger=office, queues=office._queues, answers=Answerer(),
        planning=SimpleNamespace(), runners={},
    )  # fmt: skip
    with pytest.raises(Exception, match="Nobody wants it any more"):
        flow._gate("made-1")
    assert office.entry(id_).outcome.failure.code == "unreadable-job"
