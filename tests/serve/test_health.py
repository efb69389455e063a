"""Health, metrics and the log of the real process."""

import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.process import HERE, SCRAPING, SECRET, pushed, serving

BEARER = {"Authorization": f"Bearer {SCRAPING}"}


def figures(text):
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(s.name, *(s.labels[name] for name in sorted(s.labels))): s.value for s in samples}


def test_it_is_alive_and_ready(client):
    assert client.get("/healthz").json()["status"] == "alive"
    assert client.get("/readyz").json() == {"status": "ready"}


def test_metrics_are_for_who_knows_the_token(client):
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert (
        client.get("/metrics", headers=BEARER).headers["content-type"].startswith("text/plain; version=0.0.4")
    )


def test_metrics_count_what_was_answered_and_no_path_that_a_stranger_makes_up(client):
    client.post("/webhooks/hub", json=pushed(commit="e" * 40))
    client.get("/made-up-by-a-stranger")
    time.sleep(1.1)  # a page of figures is given out for a second
    text = client.get("/metrics", headers=BEARER).text
    found = figures(text)
    assert found["merge_bot_deliveries_total", "stored", "hub"] >= 1
    assert found["merge_bot_http_requests_total", "/webhooks/hub", "202"] >= 1
    assert found["merge_bot_http_seconds_count", "/webhooks/hub"] >= 1
    assert found["merge_bot_database_up",] == 1
    assert found["merge_bot_jobs", "queued"] == 0
    assert found["merge_bot_inbox_waiting",] >= 1
    assert "stranger" not in text


@pytest.mark.slow
def test_a_port_of_its_own_has_health_and_metrics_and_nothing_else(tmp_path):
    with serving(tmp_path, "--no-worker", "--health-port", "0") as server:
        inner = re.search(r"http://\S+", server.process.stdout.readline())[0]
        assert httpx2.get(f"{inner}/metrics").status_code == 200
        assert httpx2.get(f"{inner}/readyz").status_code == 200
        assert httpx2.post(f"{inner}/webhooks/hub", json={}).status_code == 404


@pytest.mark.slow
def test_scratch_that_is_gone_is_not_ready_and_becomes_so_again(tmp_path):
    with serving(tmp_path, "--no-worker") as server:
        folder = tmp_path / "state" / "scratch"
        folder.rmdir()
        answer = httpx2.get(f"{server.url}/readyz")
        assert answer.status_code == 503
        assert answer.json()["troubles"] == {
            "scratch": f"{folder} cannot be written to: No such file or directory."
        }
        folder.mkdir()
        time.sleep(1.1)
        assert httpx2.get(f"{server.url}/readyz").status_code == 200


@pytest.mark.slow
def test_a_delivery_waits_for_a_database_that_is_locked(tmp_path):
    with serving(tmp_path, "--no-worker") as server:
        other = sqlite3.connect(server.database, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        headers = {"X-Webhook-Secret": SECRET}
        with httpx2.Client(base_url=server.url, headers=headers, timeout=20) as client:
            timer = Timer(1.5, lambda: other.execute("COMMIT"))
            timer.start()
            began = time.monotonic()
            assert client.post("/webhooks/hub", json=pushed()).status_code == 202
            assert time.monotonic() - began > 1
            timer.join()
        found = other.execute("SELECT count(*) FROM merge_bot_inbox").fetchone()
        other.close()
        assert found == (1,)


def test_the_server_is_small_and_holds_no_torch(server, client):
    for _ in range(50):
        client.post("/webhooks/hub", json=pushed())
    loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "_sqlite3" in loaded  # so libraries do show up there
    assert "libtorch" not in loaded
    assert "numpy" not in loaded
    assert server.rss() < 250


def test_importing_all_of_the_server_pulls_in_no_torch():
    code = (
        "import sys, bot.serve.app, bot.serve.run, bot.commands.serve;"
        "sys.exit(bool({'torch', 'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)


def test_a_line_of_the_log_says_which_request_and_delivery_it_is_about(server, client):
    answer = client.post(
        "/webhooks/hub", json=pushed(commit="f" * 40), headers={"X-Request-ID": "from-a-proxy"}
    )
    assert answer.headers["x-request-id"] == "from-a-proxy"
    line = next(line for line in server.log() if line.get("request") == "from-a-proxy")
    assert (line["level"], line["source"]) == ("info", "hub")
    assert line["delivery"] == answer.json()["delivery"]


def test_the_log_has_one_line_a_request_and_no_secret(server, client):
    client.get("/forged%0Aline?token=hf_" + "x" * 34, headers={"X-Request-ID": "forged b"})
    assert SECRET not in (server.folder / "log").read_text()
    assert "hf_xxx" not in (server.folder / "log").read_text()
    assert all({"time", "level", "logger", "message"} < set(line) for line in server.log())
