"""Backups: of one moment while others write, restored as a whole or not at all, and never over somebody's jobs."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import tempfile
import threading
import time

import psycopg
import pytest

from bot.errors import HostError, InputError, RefusedError
from bot.jobs.backup import backup, restore
from bot.jobs.inbox import Delivery, Inbox
from bot.jobs.ledger import Ledger
from bot.jobs.migration import VERSION, opened, version
from bot.jobs.queues import Queues
from tests.jobs.orders import PUBLISHED, REFUSED, order


@pytest.fixture
def other(url, tmp_path, request, open_database):
    """A second database of the same kind, with nothing in it."""
    if url.startswith("sqlite"):
        return open_database(f"sqlite:///{tmp_path}/other.db")
    return open_database(request.getfixturevalue("postgres").fresh("other"))


def in_line(database, key):
    """DBOS's tables, with a workflow in them."""
    queues = Queues(database)
    queues.prepare({})
    queues.job(key, 1)
    queues.close()


def states(database, key):
    queues = Queues(database)
    found = queues.states([f"{key}-1"])
    queues.close()
    return found


def test_a_backup_brings_everything_back(ledger, database, other, tmp_path):
    key = ledger.enqueue(order()).order.job.key
    ledger.write(key, ["one", "two"])
    ledger.end(key, 1, PUBLISHED)
    inbox = Inbox(database)
    inbox.put([Delivery(key="a", source="hub", body=b"\0\xff")])
    inbox.close()
    in_line(database, key)
    file = tmp_path / "state.backup"
    assert backup(database, file) == file.stat().st_size > 1000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.glob("*state.backup*")] == ["state.backup"]
    restore(other, file, force=False)
    restored = Ledger(other)
    assert restored.entry(key) == ledger.entry(key)
    assert restored.lines(key) == ledger.lines(key)
    assert states(other, key) == {f"{key}-1": "ENQUEUED"}
    there = Inbox(other)
    assert there.take() == (Delivery(key="a", source="hub", body=b"\0\xff"),)
    there.put([Delivery(key="b", source="hub", body=b"")])  # the numbers go on
    assert [each.key for each in there.take()] == ["b"]
    there.close()


def test_jobs_are_not_overwritten_without_being_asked_to(ledger, database, other, tmp_path):
    file, key = tmp_path / "state.backup", ledger.enqueue(order()).order.job.key
    in_line(database, key)
    backup(database, file)
    mine = Ledger(other).enqueue(order("grace/other")).order.job.key
    with pytest.raises(RefusedError) as caught:
        restore(other, file, force=False)
    assert caught.value.code == "database-not-empty"
    assert (Ledger(other).entry(mine).state, Ledger(other).entry(key)) == ("queued", None)
    in_line(other, mine)
    restore(other, file, force=True)
    assert (states(other, mine), states(other, key)) == ({}, {f"{key}-1": "ENQUEUED"})
    assert (Ledger(other).entry(key).state, Ledger(other).entry(mine)) == ("queued", None)


def test_both_are_safe_while_the_service_works(ledger, database, tmp_path):
    """A writer goes on through a backup and a restore; late writes of what was going on then change nothing."""
    first = ledger.enqueue(order("ada/first")).order.job.key
    stop, count, errors = threading.Event(), [0], []

    def work():
        while not stop.is_set():
            try:
                key = ledger.enqueue(order(f"ada/{count[0]}")).order.job.key
                ledger.write(key, ["a line"])
                ledger.end(key, 1, REFUSED)
                count[0] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not happen
                errors.append(error)

    writer = threading.Thread(target=work)
    writer.start()
    file = tmp_path / "state.backup"
    try:
        for _ in range(2):
            backup(database, file)
        at_backup = count[0]
        while count[0] < at_backup + 10 and not errors:
            pass
        restore(database, file, force=True)
        at_restore = count[0]
        while count[0] < at_restore + 10 and not errors:
            pass
    finally:
        stop.set()
        writer.join()
    assert errors == []
    assert ledger.entry(first).state == "queued"
    assert database.read(version) == VERSION
    ended = ledger.counts()
    assert 0 < ended["refused"] <= count[0]
    assert ended["queued"] in {1, 2}


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_who_writes_to_postgresql_meanwhile_waits_and_falls_victim_to_no_deadlock(database, url, tmp_path):
    """Two who hold one table and then want another, in either order, with nothing that tries again for them."""
    file, stop, errors, counts = tmp_path / "state.backup", threading.Event(), [], {"aa": 0, "zz": 0}

    def work(held, wanted):
        with psycopg.connect(url) as connection:
            while not stop.is_set():
                try:
                    with connection.transaction():
                        connection.execute(f"INSERT INTO {held} VALUES (1)")
                        time.sleep(0.01)
                        connection.execute(f"INSERT INTO {wanted} VALUES (1)")
                    counts[held] += 1
                    time.sleep(0.03)
                except psycopg.Error as error:
                    errors.append(error)

    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE aa (value int); CREATE TABLE zz (value int)")
    backup(database, file)
    writers = [threading.Thread(target=work, args=names) for names in (("aa", "zz"), ("zz", "aa"))]
    for each in writers:
        each.start()
    try:
        for _ in range(4):
            restore(database, file, force=True)
    finally:
        stop.set()
        for each in writers:
            each.join()
    assert errors == []
    assert min(counts.values()) > 0


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_restore_that_gets_no_quiet_moment_changes_nothing_and_says_so(
    ledger, database, url, tmp_path, monkeypatch
):
    monkeypatch.setattr("bot.jobs.backup_postgres.PATIENCE", 2.0)
    file = tmp_path / "state.backup"
    backup(database, file)
    key = ledger.enqueue(order()).order.job.key
    with psycopg.connect(url) as reader:
        reader.execute("SELECT count(*) FROM merge_bot_jobs")
        with pytest.raises(HostError) as caught:
            restore(database, file, force=True)
    assert (caught.value.code, ledger.entry(key).state) == ("database-busy", "queued")
    restore(database, file, force=True)
    assert ledger.entry(key) is None


def test_files_that_are_no_backups_of_this_database_are_refused(url, database, other, tmp_path, request):
    def refused(file):
        with pytest.raises(InputError) as caught:
            restore(database, file, force=True)
        return caught.value.code

    key = Ledger(database).enqueue(order()).order.job.key
    (tmp_path / "text").write_text("some text that is long enough")
    assert refused(tmp_path / "text") == refused(tmp_path / "none") == "no-backup"
    if url.startswith("sqlite"):
        foreign = sqlite3.connect(tmp_path / "foreign.db")
        foreign.execute("CREATE TABLE t (x)")
        foreign.close()
        (tmp_path / "dump").write_bytes(b"PGDMP and so on")
        assert refused(tmp_path / "foreign.db") == refused(tmp_path / "dump") == "no-backup"
        newer = tmp_path / "newer.db"
        backup(other, newer)
        with sqlite3.connect(newer) as connection:
            connection.execute("UPDATE merge_bot_settings SET value = '99'")
        connection.close()
        assert refused(newer) == "database-newer"
        whole = tmp_path / "broken.db"
        backup(database, whole)
        data = bytearray(whole.read_bytes())
        data[4096 * 3 : 4096 * 8] = b"\x7f" * (4096 * 5)
        whole.write_bytes(data)
        assert refused(whole) == "no-backup"
    else:
        sqlite = opened(f"sqlite:///{tmp_path}/lite.db")
        backup(sqlite, tmp_path / "lite.backup")
        sqlite.close()
        assert refused(tmp_path / "lite.backup") == "no-backup"
        backup(database, tmp_path / "cut")
        (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:2000])
        assert refused(tmp_path / "cut") == "no-backup"
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE merge_bot_settings SET value = '99' WHERE name = 'schema'")
        backup(database, tmp_path / "newer")
        with psycopg.connect(url) as connection:
            connection.execute(
                "UPDATE merge_bot_settings SET value = %s WHERE name = 'schema'", [str(VERSION)]
            )
        assert refused(tmp_path / "newer") == "database-newer"
        foreign = request.getfixturevalue("postgres").fresh("strange")
        with psycopg.connect(foreign) as connection:
            connection.execute("CREATE TABLE t (x int)")
        made = ["pg_dump", "--format=custom", f"--file={tmp_path / 'foreign'}", f"--dbname={foreign}"]
        subprocess.run(made, check=True)
        assert refused(tmp_path / "foreign") == "no-backup"
    assert Ledger(database).entry(key).state == "queued"


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_where_it_cannot_be_unpacked_it_is_said_and_nothing_changed(ledger, database, tmp_path, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    file, small, key = tmp_path / "state.backup", tmp_path / "small", ledger.enqueue(order()).order.job.key
    ledger.write(key, [f"{number}{'.' * 500}" for number in range(2000)])
    backup(database, file)
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    try:
        with pytest.raises(HostError) as caught:
            restore(database, file, force=True)
        assert (caught.value.code, list(small.iterdir())) == ("disk-full", [])
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    assert ledger.entry(key).state == "queued"


def test_a_backup_that_cannot_be_written_leaves_the_old_one(database, tmp_path, monkeypatch):
    file = tmp_path / "state.backup"
    file.write_bytes(b"the old one")
    with pytest.raises(InputError) as caught:
        backup(database, tmp_path / "none" / "x")
    assert caught.value.code == "bad-output"
    if not database.is_sqlite:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(InputError) as caught:
            backup(database, file)
        assert caught.value.code == "no-pg-dump"
        assert file.read_bytes() == b"the old one"
        assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_the_password_is_no_argument_of_a_program(database, tmp_path, monkeypatch):
    asked = []
    real = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **rest: asked.append(command) or real(command, **rest)
    )
    secret = database.url.set(password="geheim")
    monkeypatch.setattr(database, "url", secret)
    backup(database, tmp_path / "state.backup")
    assert asked
    assert "geheim" not in str(asked)
