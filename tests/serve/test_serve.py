"""`merge-bot serve` from start to stop: what it says when it cannot start, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import pytest

from tests.serve.process import HERE, SECRET, pushed, serving
from tests.serve.test_connections import HEAD, everything
from tests.serve.test_webhooks import kept


def started(folder, *flags, **environment):
    """A start that fails: exit code and what was said."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MERGE_BOT_")}
    command = [sys.executable, "-m", "bot", "serve", "--no-worker", *flags]
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=env | {"PYTHONPATH": str(HERE)} | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_port_that_is_taken_is_said_in_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, said = started(tmp_path, "--port", str(other.getsockname()[1]))
    assert (code, "[port-taken]" in said, "--port" in said) == (2, True, True)
    assert not (tmp_path / "state").exists()


def test_an_address_of_another_machine_is_said(tmp_path):
    code, said = started(tmp_path, "--host", "192.0.2.1", "--port", "0")
    assert (code, "[bad-host]" in said) == (2, True)


def test_a_mistake_in_the_configuration_is_named_with_its_line(tmp_path):
    (tmp_path / "merge-bot.toml").write_text("[server]\nprot = 8000\n")
    code, said = started(tmp_path)
    assert (code, "line 2" in said, "`port`" in said or "port" in said) == (2, True, True)


def test_a_configuration_that_is_not_there_is_said(tmp_path):
    code, said = started(tmp_path, "--config", "nowhere.toml")
    assert (code, "nowhere.toml" in said) == (2, True)


def test_without_the_extra_it_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['fastapi'] = None\n")
    code, said = started(tmp_path, PYTHONPATH=f"{tmp_path}:{HERE}")
    assert (code, "adapter-merge-bot[serve]" in said) == (2, True)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "state").write_text("a file")
    code, said = started(tmp_path, "--port", "0")
    assert (code, "[no-state-folder]" in said) == (2, True)


@pytest.mark.slow
def test_it_listens_on_this_machine_alone_unless_told_otherwise(tmp_path):
    with serving(tmp_path, "--no-worker") as server:
        assert server.url.startswith("http://127.0.0.1:")


def test_a_stop_finishes_what_is_being_answered_and_loses_nothing(tmp_path):
    with serving(tmp_path, "--no-worker", MERGE_BOT_SERVER__REQUEST_SECONDS="20") as server:
        body = json.dumps(pushed()).encode()
        with server.connect() as slow:
            slow.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:20])
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.7)
            with pytest.raises(OSError):
                server.connect()
            slow.sendall(body[20:])
            assert everything(slow).startswith(b"HTTP/1.1 202 ")
        assert server.process.wait(10) == 0
        assert len(kept(server)) == 1
        assert server.log()[-1]["message"] == "the service has stopped"


@pytest.mark.slow
def test_a_stop_does_not_wait_longer_than_it_may(tmp_path):
    quick = {"MERGE_BOT_SERVER__DRAIN_SECONDS": "1", "MERGE_BOT_SERVER__REQUEST_SECONDS": "60"}
    with serving(tmp_path, "--no-worker", **quick) as server, server.connect() as stuck:
        stuck.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
        time.sleep(0.3)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 4


@pytest.mark.slow
def test_a_second_signal_kills(tmp_path):
    with (
        serving(tmp_path, "--no-worker", MERGE_BOT_SERVER__REQUEST_SECONDS="60") as server,
        server.connect() as stuck,
    ):
        stuck.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.process.poll() is None
        assert server.stop(within=2) == -signal.SIGTERM


@pytest.mark.slow
def test_ctrl_c_is_a_stop(tmp_path):
    with serving(tmp_path, "--no-worker") as server:
        assert server.stop(signal.SIGINT) == 0


@pytest.mark.slow
def test_two_servers_on_one_database_keep_each_delivery_once(tmp_path):
    with serving(tmp_path, "--no-worker") as one:
        (tmp_path / "other").mkdir()
        url = f"sqlite:///{one.database}"
        with serving(tmp_path / "other", "--no-worker", MERGE_BOT_DATABASE_URL=url) as other:
            answers = []

            def send(server):
                with httpx2.Client(
                    base_url=server.url, headers={"X-Webhook-Secret": SECRET}, timeout=20
                ) as client:
                    for number in range(100):
                        answer = client.post("/webhooks/hub", json=pushed(commit=f"{number:040x}"))
                        answers.append(answer.status_code)

            threads = [threading.Thread(target=send, args=(server,)) for server in (one, other) * 2]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert answers == [202] * 400
        assert len(kept(one)) == 100
