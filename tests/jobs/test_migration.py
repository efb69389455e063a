"""A database as version 1 made it, brought to the present one: the same tables as a new one has, and nothing lost."""

from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from bot.jobs import rows
from bot.jobs.inbox import Delivery, Inbox
from bot.jobs.ledger import Ledger
from bot.jobs.migration import VERSION, version
from bot.jobs.reading import Usage
from tests.jobs.orders import PUBLISHED, order

HERE = Path(__file__).parent
JOB = text(
    "INSERT INTO merge_bot_jobs (id, state, attempt, stage, make, runner, requester, search, bytes, created,"
    " newest_line) VALUES (:id, :state, 1, 'queued', 'made-1', 'local', :requester, 'ada', 5, 1.0, 1)"
)
DOCUMENTS = {
    "orders": "INSERT INTO merge_bot_orders (job, document) VALUES (:id, :order)",
    "outcomes": "INSERT INTO merge_bot_outcomes (job, document, details) VALUES (:id, :outcome, '{}')",
    "lines": "INSERT INTO merge_bot_lines (job, number, at, text) VALUES (:id, 1, 1.0, 'said')",
}
INBOX = text(
    "INSERT INTO merge_bot_inbox (key, source, event, body, received) VALUES ('d1', 'hub', '', :body, 1.0)"
)
REST = """
INSERT INTO merge_bot_makes (id, attempt, created) VALUES ('made', 1, 1.0);
INSERT INTO merge_bot_workers (executor, beat, at) VALUES ('one', 7, 1.0);
INSERT INTO merge_bot_seen (kind, name, value, at) VALUES ('repo', 'ada/x', 'etag', 1.0);
INSERT INTO merge_bot_settings (name, value) VALUES ('schema', '1');
"""


@pytest.fixture
def filled(open_database):
    """Gives a database of version 1 at this URL two jobs, one that waits and one that has ended; their ids."""

    def filled(url):
        database = open_database(url)  # nothing of ours is left of it but how it is spoken to
        kind = "sqlite" if database.is_sqlite else "postgresql"
        orders = [order(f"ada/{name}") for name in ("waits", "ended")]

        def work(connection):
            for table in inspect(connection).get_table_names():
                if table.startswith("merge_bot_"):
                    cascade = "" if database.is_sqlite else " CASCADE"
                    connection.execute(text(f"DROP TABLE {table}{cascade}"))
            for statement in f"{(HERE / f'v1-{kind}.sql').read_text()}{REST}".split(";")[:-1]:
                connection.execute(text(statement))
            connection.execute(INBOX, {"body": b"x"})
            for each, state in zip(orders, ("queued", "published"), strict=True):
                given = {"id": each.job.key, "state": state, "requester": rows.requester(each)}
                connection.execute(JOB, given)
                documents = {"order": rows.document(each), "outcome": rows.document(PUBLISHED)}
                for table, statement in DOCUMENTS.items():
                    if table != "outcomes" or state == "published":
                        connection.execute(text(statement), {"id": each.job.key} | documents)

        database.write(work)
        assert database.read(version) == 1
        return [each.job.key for each in orders]

    return filled


def shape(connection):
    """Everything about our tables that a database tells."""
    seen = inspect(connection)
    names = [name for name in seen.get_table_names() if name.startswith("merge_bot_")]
    return {
        name: (
            {(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in seen.get_columns(name)},
            sorted((i["name"], tuple(i["column_names"])) for i in seen.get_indexes(name)),
            seen.get_pk_constraint(name)["constrained_columns"],
            [
                (k["constrained_columns"], k["referred_table"], k["options"])
                for k in seen.get_foreign_keys(name)
            ],
        )
        for name in names
    }


def test_a_database_of_version_1_becomes_what_a_new_one_is_and_keeps_what_is_in_it(
    url, filled, open_database
):
    new = open_database(url).read(shape)
    waits, ended = filled(url)
    database = open_database(url)
    assert database.read(version) == VERSION
    assert database.read(shape) == new
    ledger = Ledger(database)
    assert {entry.order.job.key: entry.state for entry in ledger.entries()} == {
        waits: "queued",
        ended: "published",
    }
    assert ledger.entry(ended).outcome == PUBLISHED
    assert [line.text for line in ledger.lines(waits)] == ["said"]
    counts = {
        name: database.read(lambda c, n=name: c.scalar(text(f"SELECT count(*) FROM merge_bot_{n}")))
        for name in ("makes", "workers", "seen", "inbox")
    }
    assert set(counts.values()) == {1}, counts


def test_jobs_of_version_1_go_on_and_what_they_are_asked_anew_counts_from_then_on(url, filled, open_database):
    waits, ended = filled(url)
    ledger = Ledger(open_database(url))
    assert ledger.begin(waits, 1, worker="one")
    assert ledger.assign(waits, 1, runner="local", size=7)
    assert ledger.used(ledger.entry(waits)) == Usage(
        jobs=0, bytes=0
    )  # nobody had written down who asked for how much
    assert ledger.end(waits, 1, PUBLISHED)
    again = ledger.retry(ended, by="ada")
    assert (again.state, again.attempt) == ("queued", 2)
    assert ledger.assign(ended, 2, runner="local", size=7)
    assert ledger.used(ledger.entry(ended)) == Usage(jobs=1, bytes=7)


def test_without_the_right_to_make_a_database_an_older_one_is_brought_up_to_date_all_the_same(
    url, filled, open_database
):
    filled(url)
    assert open_database(url, create=False).read(version) == VERSION


def test_a_delivery_of_version_1_is_known_when_it_comes_again(url, filled, open_database):
    filled(url)
    inbox = Inbox(open_database(url))
    inbox.put([Delivery(key="d1", source="hub", body=b"y")])
    assert [(each.key, each.body) for each in inbox.take()] == [("d1", b"x")]
    inbox.close()
