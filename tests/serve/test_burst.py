"""Ten thousand deliveries over real HTTP to the real process, from a client that is a process of its own."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.burst import delivery
from tests.serve.process import HERE, SECRET, serving

DELIVERIES, DIFFERENT = 10_000, 8_000
CONNECTIONS = 16


def processor_time(server):
    """Seconds that the server has computed so far."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def burst(*urls, deliveries=DELIVERIES, different=DIFFERENT):
    command = [
        sys.executable, "-m", "benchmarks.burst", *urls,
        "--deliveries", str(deliveries), "--different", str(different), "--connections", str(CONNECTIONS),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=HERE, input=SECRET, capture_output=True, text=True, check=True, timeout=120
    )
    print(done.stdout)
    return json.loads(done.stdout)


def bodies(database):
    with sqlite3.connect(database) as connection:
        return sorted(row[0] for row in connection.execute("SELECT body FROM merge_bot_inbox"))


@pytest.mark.slow
def test_of_ten_thousand_deliveries_none_is_lost_and_none_is_kept_twice(tmp_path):
    with serving(tmp_path, "--no-worker") as server:
        found = burst(server.url)
        print(f"{server.rss():.0f} MB")
        assert found["statuses"] == {"202": DELIVERIES}
        assert bodies(server.database) == sorted(delivery(number) for number in range(DIFFERENT))
        assert server.rss() < 250
        assert (
            processor_time(server) / DELIVERIES < 0.004
        )  # seconds; how long answers take depends on who else works


@pytest.mark.slow
def test_two_servers_share_a_burst(tmp_path):
    (tmp_path / "other").mkdir()
    with serving(tmp_path, "--no-worker") as one:
        url = f"sqlite:///{one.database}"
        with serving(tmp_path / "other", "--no-worker", MERGE_BOT_DATABASE_URL=url) as other:
            found = burst(one.url, other.url, deliveries=2_000, different=1_500)
        assert found["statuses"] == {"202": 2_000}
        assert bodies(one.database) == sorted(delivery(number) for number in range(1_500))
