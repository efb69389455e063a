"""`merge-bot serve` as a process of its own, and what tests do to it."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2

HERE = Path(__file__).parents[2]
SECRET, SIGNING, SCRAPING = (
    "hub-secret-of-the-tests",
    "github-secret-of-the-tests",
    "metrics-token-of-the-tests",
)
PATIENCE = 1.5  # seconds that a request may take in the tests
ENVIRONMENT = {
    "MERGE_BOT_HUB__WEBHOOK_SECRET": SECRET,
    "MERGE_BOT_GITHUB__WEBHOOK_SECRET": SIGNING,
    "MERGE_BOT_SERVER__METRICS_TOKEN": SCRAPING,
    "MERGE_BOT_SERVER__REQUEST_SECONDS": str(PATIENCE),
    "MERGE_BOT_SERVER__DRAIN_SECONDS": "5",
}


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    folder: Path

    @property
    def at(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def database(self) -> Path:
        return self.folder / "state" / "merge-bot.sqlite"

    def rss(self) -> float:
        """MB in memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def log(self) -> list[dict[str, Any]]:
        lines = (self.folder / "log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def connect(self) -> socket.socket:
        return socket.create_connection(self.at, timeout=10)

    def stop(self, sent: signal.Signals = signal.SIGTERM, *, within: float = 10) -> int:
        self.process.send_signal(sent)
        return self.process.wait(within)


@contextmanager
def serving(folder: Path, *flags: str, **environment: str) -> Iterator[Server]:
    """A server in `folder` at a free port."""
    with started(folder, "serve", "--port", "0", *flags, **environment) as process:
        line = process.stdout.readline()
        assert "listens at" in line, (folder / "log").read_text()
        server = Server(process, line.rpartition(" ")[2].strip(), folder)
        _wait_until_it_answers(server)
        yield server


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command that stays, in `folder`, until the end of the test at most; its log is there."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MERGE_BOT_")}
    env |= {"PYTHONPATH": str(HERE)} | ENVIRONMENT | environment
    command = [sys.executable, "-m", "bot", *arguments, "--log", "json"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _wait_until_it_answers(server: Server) -> None:
    for _ in range(100):
        try:
            httpx2.get(f"{server.url}/healthz", timeout=5)
        except httpx2.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the server does not answer")


def pushed(name: str = "acme/adapter", *, commit: str = "a" * 40, **changes: Any) -> dict[str, Any]:
    """What the Hub sends after a push."""
    told = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": name, "id": "6" * 24, "private": False, "headSha": commit},
        "updatedRefs": [{"ref": "refs/heads/main", "oldSha": "0" * 40, "newSha": commit}],
        "webhook": {"id": "6" * 24, "version": 3},
    }
    return told | changes


def commented(body: str = "/merge", *, number: int = 11, action: str = "created") -> dict[str, Any]:
    """What GitHub sends after a comment."""
    return {
        "action": action,
        "installation": {"id": 5},
        "issue": {
            "number": 7,
            "pull_request": {"url": "https://api.github.com/x"},
            "title": "Add",
            "body": "",
        },
        "comment": {"id": number, "body": body, "user": {"login": "alice", "type": "User"}},
        "repository": {"full_name": "acme/adapters"},
        "sender": {"login": "alice"},
    }


def signed(
    payload: Any, *, secret: str = SIGNING, event: str = "issue_comment", **more: str
) -> dict[str, Any]:
    """Arguments of a POST as GitHub makes it."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": str(uuid4()),
        "X-Hub-Signature-256": f"sha256={digest}",
    }
    return {"content": body, "headers": headers | more}
