"""Deliveries are decided once each, whatever comes; and whoever wants to know of an end is told."""

import json
import logging
import re
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bot.clients.posting import post
from bot.config.models import Notify
from bot.errors import HostError, InputError
from bot.job import Failure, Now
from bot.jobs import clerk as clerks
from bot.jobs import tables
from bot.jobs.cleaner import Cleaner
from bot.jobs.clerk import Clerk
from bot.jobs.inbox import Delivery, Inbox
from bot.jobs.notifying import Notifier, document
from bot.jobs.order import Entry
from bot.log import ABOUT
from tests.jobs.orders import PUBLISHED, REFUSED, order

OPERATING = Path(__file__).parents[2] / "docs/operating.md"


@pytest.fixture
def inbox(database):
    made = Inbox(database)
    yield made
    made.close()


def until(found, seconds=10):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def unfinished(database):
    """Keys of what the inbox still has. Looked at, not taken: what is taken here, the clerk would not get."""
    waiting = select(tables.inbox.c.key).where(tables.inbox.c.finished.is_(None))
    return database.read(lambda connection: [*connection.scalars(waiting)])


class Told(logging.Handler):
    """The level of each line of the log, and which delivery it is about."""

    def __init__(self):
        super().__init__()
        self.lines = set()

    def emit(self, record):
        self.lines.add((record.levelname, ABOUT.get().get("delivery")))


def test_each_delivery_is_decided_once_and_a_bad_one_stops_nobody(inbox, database):
    logging.getLogger("bot.jobs").addHandler(told := Told())
    seen, lock = [], threading.Lock()

    def door(delivery):
        with lock:
            seen.append(delivery.key)
        if delivery.key == "bad-7":
            raise InputError("No.", advice="Better.", code="usage")
        if delivery.key == "odd-8":
            raise ValueError("what nobody expected")
        return ("decided",)

    keys = [f"good-{n}" for n in range(40)] + ["bad-7", "odd-8", "good-3", "good-4"]
    inbox.put([Delivery(key=key, source="hub", body=b"{}") for key in keys])
    inbox.put([Delivery(key="lost", source="nobody", body=b"{}")])
    clerk = Clerk(inbox, {"hub": door})
    clerk.start()
    until(lambda: len(seen) >= 42 and not unfinished(database))
    clerk.stop()
    logging.getLogger("bot.jobs").removeHandler(told)
    assert sorted(seen) == sorted(set(keys))
    assert {("WARNING", "bad-7"), ("ERROR", "odd-8"), ("WARNING", "lost")} <= told.lines


def test_one_that_was_given_up_counts_when_it_is_sent_again(inbox, database):
    tokens = [None, "one"]

    def door(_):
        if tokens.pop(0) is None:
            raise InputError("There is no token.", advice="Set one.", code="github-closed")
        return ()

    clerk = Clerk(inbox, {"github": door})
    clerk.start()
    inbox.put([Delivery(key="a", source="github", body=b"{}")])
    until(lambda: len(tokens) == 1 and not unfinished(database))
    for _ in range(3):
        inbox.put([Delivery(key="a", source="github", body=b"{}")])
    until(lambda: not tokens and not unfinished(database))
    clerk.stop()


def test_one_that_a_host_s_fault_kept_from_being_decided_stays(inbox):
    asked = threading.Event()

    def door(_):
        asked.set()
        raise HostError("Down.", advice="Later.", code="host-fault")

    inbox.put([Delivery(key="a", source="hub", body=b"{}")])
    clerk = Clerk(inbox, {"hub": door})
    clerk.start()
    assert asked.wait(10)
    clerk.stop()
    assert inbox.take() == ()  # not at once
    assert [d.key for d in inbox.take(lease=-1.0)] == ["a"]


def test_a_slow_delivery_keeps_no_other_from_being_finished_and_a_stop_waits_only_so_long(inbox, database):
    slow = threading.Event()

    def door(delivery):
        if delivery.key == "slow":
            slow.wait(10)
        return ()

    inbox.put([Delivery(key=key, source="hub", body=b"{}") for key in ("slow", *"abcdef")])
    clerk = Clerk(inbox, {"hub": door})
    clerk.start()
    until(lambda: unfinished(database) == ["slow"])
    began = time.monotonic()
    clerk.stop(seconds=0.1)
    assert time.monotonic() - began < 5
    slow.set()
    until(lambda: not unfinished(database))


@pytest.mark.parametrize("fails", [None, InputError, HostError])
def test_what_comes_from_one_thread_is_decided_in_the_order_in_which_it_came(inbox, fails):
    """A cancel that overtakes its merge finds nothing. Where the merge comes again, it does, too."""
    told = []

    def door(delivery):
        told.append(f"{delivery.key} begins")
        if delivery.key == "merge":
            time.sleep(0.3)
            told.append("merge ends")
            if fails is not None:
                raise fails("No.", advice="Later.", code="no")
        return ()

    threads = {"merge": 1, "cancel": 1, "other": 2, "push": None, "another push": None}
    inbox.put([Delivery(key=key, source="hub", body=b"") for key in threads])
    clerk = Clerk(inbox, {"hub": door}, place=lambda delivery: threads[delivery.key])
    clerk.start()
    until(lambda: "merge ends" in told and len(told) >= (5 if fails is HostError else 6))
    clerk.stop()
    left = {delivery.key for delivery in inbox.take(lease=-1.0)}
    assert told.index("other begins") < told.index("merge ends")
    if fails is HostError:
        assert "cancel begins" not in told
        assert left == {"merge", "cancel"}
    else:
        assert told.index("merge ends") < told.index("cancel begins")
        assert left == set()


def test_what_comes_while_an_earlier_one_of_its_thread_waits_for_the_host_waits_behind_it(
    inbox, database, monkeypatch
):
    """Else a cancel would find nothing, and its merge would begin minutes after the answer to that."""
    monkeypatch.setattr(clerks, "LEASE", 0.4)
    monkeypatch.setattr(clerks, "EVERY", 0.02)
    told = []

    def door(delivery):
        told.append(delivery.key)
        if told == ["merge"]:
            raise HostError("The host is away.", advice="Wait.", code="host-gone")
        return ()

    clerk = Clerk(inbox, {"hub": door}, place=lambda delivery: delivery.body)
    clerk.start()
    for key, thread in (("merge", b"1"), ("cancel", b"1"), ("other", b"2")):
        inbox.put([Delivery(key=key, source="hub", body=thread)])
        until(lambda key=key: key in told or key == "cancel")
    until(lambda: not unfinished(database))
    clerk.stop()
    assert told == ["merge", "other", "merge", "cancel"]


def test_what_nobody_expected_of_the_database_does_not_end_the_clerk(inbox, monkeypatch):
    real, faults = (
        inbox.take,
        [
            PoolTimeoutError("no connection"),
            RuntimeError("a fail-over"),
            HostError("Away.", advice="Later.", code="database-gone"),
        ],
    )

    def take(**given):
        if faults:
            raise faults.pop()
        return real(**given)

    seen = []
    monkeypatch.setattr("bot.jobs.clerk.EVERY", 0.01)
    monkeypatch.setattr(inbox, "take", take)
    inbox.put([Delivery(key="a", source="hub", body=b"{}")])
    clerk = Clerk(inbox, {"hub": lambda delivery: seen.append(delivery.key) or ()})
    clerk.start()
    until(lambda: seen == ["a"])
    clerk.stop()


def test_what_nobody_expected_does_not_end_the_cleaner():
    tried = []

    def clean():
        tried.append(1)
        raise ValueError("a row that nobody can read")

    cleaner = Cleaner(clean, every=0.01)
    cleaner.start()
    until(lambda: len(tried) > 2)
    cleaner.stop()


@pytest.fixture
def listener():
    """Somebody's webhook: what it was sent, and what it answers."""
    got, answers = [], [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(answers[0])
            self.send_header("location", "http://127.0.0.1:9/")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret-path", got, answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_notification_mentions_nobody_and_disguises_no_link():
    live = "<!channel> <https://evil.example|the report> R&D"
    failure = Failure(code="x", sentence=live, advice="", exit_code=3)
    entry = Entry(order=order(live), now=Now(), created=1.0, outcome=replace(REFUSED, failure=failure))
    told = document(entry)
    assert not set("<>") & set(told["text"])
    assert "&lt;!channel&gt; &lt;https://evil.example|the report&gt; R&amp;D" in told["text"]
    assert told["job"]["adapter"] == live


def test_who_wants_to_know_is_told_and_who_does_not_listen_is_let_be(listener, caplog):
    url, got, answers = listener
    table = [Notify(url="http://127.0.0.1:9/other"), Notify(url=url, on=("published",))]
    tell = Notifier(
        table, post=lambda to, document: post(to, document, timeout=5), public_url="https://bot.example/at"
    )
    entry = Entry(order=order(), now=Now(), created=1.0, state="published", outcome=PUBLISHED)
    tell(entry)
    tell(replace(entry, state="refused", outcome=REFUSED))
    assert [each["job"]["outcome"] for each in got] == ["published"]
    assert "ada/adapter" in got[0]["text"]
    assert got[0]["job"]["page"] == f"https://bot.example/at/jobs/{entry.order.job.key}"
    told = OPERATING.read_text("utf-8").partition("## Notifications")[2].partition("##")[0]
    assert {"text", "job", *got[0]["job"]} == set(re.findall("`([a-z_]+)`", told)) - {"public_url"}
    answers[0] = 302
    tell(entry)
    assert "answered 302" in caplog.text
    assert "other" not in caplog.text
    assert "secret-path" not in caplog.text
