"""The database: its URL, its versions, and what becomes of work while it is locked, away, full or broken."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update

from bot.errors import HostError, InputError
from bot.jobs.database import Database, parsed
from bot.jobs.ledger import Ledger
from bot.jobs.migration import VERSION, opened, version
from bot.jobs.tables import seen, settings
from tests.jobs.orders import order

HERE = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE)}
ROW = {"kind": "a", "name": "b", "value": "c", "at": 0.0}


def python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=HERE, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:////x/bot.db", "sqlite"),
        ("sqlite+pysqlite:////x/bot.db", "sqlite"),
        ("postgresql://u:p@h/d", "postgresql+psycopg"),
        ("postgres://u@h/d?sslmode=require", "postgresql+psycopg"),
    ],
)
def test_urls_of_both_databases_are_taken(given, driver):
    assert parsed(given).drivername == driver


@pytest.mark.parametrize(
    "given", ["bot.db", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "http://hf_x@h"]
)
def test_other_urls_are_refused(given):
    with pytest.raises(InputError) as caught:
        parsed(given)
    assert caught.value.code == "bad-database-url"


def test_a_password_is_in_no_error():
    url = "postgresql://ada:geheim@127.0.0.1:1/d"
    database = Database(url, patience=0.1)
    with pytest.raises(HostError) as caught:
        database.read(version)
    assert caught.value.code == "database-gone"
    assert "geheim" not in f"{caught.value.sentence} {caught.value.advice} {database.place}"


def test_the_tables_are_made_once_also_when_several_start_at_once(url):
    code = "import sys; from bot.jobs.migration import *; print(opened(sys.argv[1]).read(version))"
    processes = [python(code, url) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in processes] == [str(VERSION)] * 3


def test_a_newer_database_is_refused_and_left_alone(url, database):
    raised = update(settings).where(settings.c.name == "schema").values(value=str(VERSION + 1))
    database.write(lambda connection: connection.execute(raised))
    with pytest.raises(InputError) as caught:
        opened(url)
    assert caught.value.code == "database-newer"
    assert database.read(version) == VERSION + 1


def test_an_older_database_is_brought_up_to_date_step_by_step(url, database, monkeypatch):
    from bot.jobs import migration

    key = Ledger(database).enqueue(order()).order.job.key
    added = f"ALTER TABLE {settings.name} ADD COLUMN extra TEXT"
    steps = (*migration.STEPS, lambda connection: connection.execute(text(added)))
    monkeypatch.setattr(migration, "STEPS", steps)
    monkeypatch.setattr(migration, "VERSION", len(steps))
    for _ in range(2):
        newer = opened(url)
        assert newer.read(version) == VERSION + 1
        assert newer.read(lambda c: c.execute(text(f"SELECT extra FROM {settings.name}")).all()) != []
        assert Ledger(newer).entry(key).state == "queued"
        newer.close()


def test_without_a_database_there_is_a_clear_sentence(tmp_path, postgres):
    for url in (f"sqlite:///{tmp_path}/none.db", postgres.fresh()):
        with pytest.raises(InputError) as caught:
            opened(url, create=False)
        assert caught.value.code == "no-database"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot be made: No such file or directory"):
        opened(f"sqlite:///{tmp_path}/no/folder.db")


def test_a_sqlite_file_is_its_owners_alone_and_commits_are_durable(tmp_path, open_database):
    database = open_database(f"sqlite:///{tmp_path}/bot.db")
    database.write(lambda connection: connection.execute(insert(seen).values(ROW)))
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("bot.db*")} == {0o600}
    pragmas = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    found = {name: database.read(lambda c, n=name: c.scalar(text(f"PRAGMA {n}"))) for name in pragmas}
    assert found == pragmas


def test_what_was_written_half_is_not_there_after_kill_9(url, database):
    code = """if True:
        import sys, time
        from sqlalchemy import insert
        from bot.jobs.migration import opened
        from bot.jobs.tables import seen
        database = opened(sys.argv[1])
        def work(connection):
            for n in range(1000):
                connection.execute(insert(seen).values(kind="half", name=str(n), value="", at=0.0))
            print("ready", flush=True)
            time.sleep(60)
        database.write(work)
    """
    process = python(code, url)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    begun = time.monotonic()
    database.write(lambda connection: connection.execute(insert(seen).values(ROW)))
    assert time.monotonic() - begun < 5
    assert database.read(lambda connection: list(connection.scalars(select(seen.c.kind)))) == ["a"]


def test_two_processes_on_one_database_lose_no_write(url, database):
    code = """if True:
        import sys
        from bot.jobs.ledger import Ledger
        from bot.jobs.migration import opened
        ledger = Ledger(opened(sys.argv[1]))
        for n in range(60):
            ledger.write(sys.argv[2], [f"{sys.argv[3]} {n}"])
    """
    key = Ledger(database).enqueue(order()).order.job.key
    processes = [python(code, url, key, name) for name in "ab"]
    assert [process.wait() for process in processes if process.communicate()] == [0, 0]
    lines = Ledger(database).lines(key)
    assert [line.number for line in lines] == list(range(1, 121))
    for name in "ab":
        assert [x.text for x in lines if x.text[0] == name] == [f"{name} {n}" for n in range(60)]


def test_a_lock_that_stays_is_a_fault_of_the_database_and_one_that_goes_is_waited_for(
    tmp_path, open_database, monkeypatch
):
    monkeypatch.setattr("bot.jobs.database.PRAGMAS", ("busy_timeout = 50", "journal_mode = WAL"))
    database = open_database(f"sqlite:///{tmp_path}/bot.db")
    other = sqlite3.connect(tmp_path / "bot.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HostError, match="locked") as caught:
        database.write(lambda connection: None, patience=0.5)
    assert caught.value.code == "database-gone"
    assert database.read(version) == VERSION  # who only reads is not kept waiting
    threading.Timer(1.0, other.execute, ["COMMIT"]).start()
    database.write(lambda connection: connection.execute(insert(seen).values(ROW)), patience=10)
    other.close()


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_is_waited_for(postgres, open_database):
    database = open_database(postgres.fresh())
    ledger = Ledger(database)
    key = ledger.enqueue(order()).order.job.key
    postgres.stop()
    with pytest.raises(HostError) as caught:
        database.read(version, patience=1.0)
    assert caught.value.code == "database-gone"
    started = threading.Timer(5, postgres.start)
    started.start()
    ledger.write(key, ["after all"])
    started.join()
    assert [line.text for line in ledger.lines(key)] == ["after all"]
    assert ledger.begin(key, 1, worker="a-0") is True


@pytest.mark.slow
def test_a_full_disk_is_said_and_what_was_confirmed_stays(tmp_path):
    """The process may write files of a megabyte at most, which is how its database's disk becomes full."""
    code = """if True:
        import sys
        from bot.errors import HostError
        from bot.jobs import inbox as inboxes
        from bot.jobs.inbox import Delivery, Inbox
        from bot.jobs.migration import opened
        inboxes.PATIENCE = 0.5
        database = opened(sys.argv[1])
        inbox = Inbox(database)
        try:
            for n in range(1000):
                inbox.put([Delivery(key=str(n), source="hub", body=b"x" * 20_000)])
                print(n, flush=True)
        except HostError as error:
            print(error.code, flush=True)
        inbox.close()
    """
    url = f"sqlite:///{tmp_path}/bot.db"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))  # noqa: E731
    *confirmed, last = python(code, url, preexec_fn=limit).communicate(timeout=60)[0].split()
    assert last in {"database-full", "database-gone"}
    assert len(confirmed) > 10
    database = opened(url)
    there = database.read(lambda c: list(c.scalars(text("SELECT key FROM merge_bot_inbox ORDER BY number"))))
    assert there[: len(confirmed)] == confirmed
    assert database.read(lambda c: c.scalar(text("PRAGMA integrity_check"))) == "ok"
    database.write(lambda connection: connection.execute(insert(seen).values(ROW)))
    database.close()


def fill_up(ledger, key):
    for _ in range(1000):
        ledger.write(key, ["x" * 4000] * 10)


def test_a_disk_without_room_is_said_at_once(tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        database = opened(f"sqlite:///{place}/bot.db")
        ledger = Ledger(database)
        key = ledger.enqueue(order()).order.job.key
        begun = time.monotonic()
        with pytest.raises(HostError) as caught:
            fill_up(ledger, key)
        assert caught.value.code == "database-full"
        assert time.monotonic() - begun < 20
        assert ledger.entry(key).state == "queued"
        database.close()
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_file_that_is_no_database_and_one_that_may_not_be_written_are_the_operators_business(tmp_path):
    (tmp_path / "text.db").write_text("not a database, but long enough to look like one" * 100)
    with pytest.raises(InputError) as caught:
        opened(f"sqlite:///{tmp_path}/text.db")
    assert caught.value.code == "database-broken"


def test_our_own_mistakes_are_not_hidden(database):
    with pytest.raises(Exception, match="nowhere") as caught:
        database.read(lambda connection: connection.execute(text("SELECT * FROM nowhere")))
    assert not isinstance(caught.value, (HostError, InputError))
