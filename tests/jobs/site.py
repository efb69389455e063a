"""A service on this machine, to be killed: a Hub with a tiny base and adapter, a database, workers as processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from bot.job import Job
from bot.jobs.database import Database
from bot.jobs.migration import opened
from bot.jobs.office import Office
from bot.jobs.order import ACTIVE, Entry, Order, Origin
from bot.jobs.queues import ANSWERS, JOBS, LOCAL, SPREAD, STOPS, Queues
from bot.request import Destination, MergeRequest

LEASE = 12.0


class Site:
    """Alice's tokens; `to` is where a job publishes. Workers write their logs into `root`."""

    def __init__(self, url: str, *, hub, root: Path) -> None:
        self.url, self.hub, self.root = url, hub, root
        self.workers: list[subprocess.Popen] = []
        self.names: dict[int, str] = {}
        self.database: Database = opened(url)
        self.queues = Queues(self.database)
        self.queues.prepare({JOBS: 4, ANSWERS: 4, STOPS: 4, LOCAL: 1, SPREAD: 4})
        self.office = Office(self.database, self.queues)
        self.environment = {
            **os.environ, **hub.environment("alice"), "HF_HOME": str(root / "home"), "MERGE_BOT_TIMEOUT": "20",
            "MERGE_BOT_ISOLATION": "none", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd()),
        }  # fmt: skip

    def start(self, folder: str = "one", *, lease: float = LEASE) -> subprocess.Popen:
        """A worker that is ready."""
        log = (self.root / f"{folder}-{len(self.workers)}.log").open("wb")
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.run_worker", self.url, str(self.root / folder), str(lease)],
            env=self.environment, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
        self.workers.append(worker)
        said = worker.stdout.readline().decode().split()
        assert said[:1] == ["ready"], self.logs()
        self.names[worker.pid] = said[1]
        return worker

    def name(self, worker: subprocess.Popen) -> str:
        """Of the executor that it is."""
        return self.names[worker.pid]

    def kill(self, worker: subprocess.Popen) -> None:
        worker.kill()
        worker.wait()

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                self.kill(worker)
        self.queues.close()
        self.database.close()

    def ask(
        self,
        adapter: str = "alice/tiny-lora",
        *,
        to: str = "alice/merged",
        by: str = "alice",
        verb: str = "merge",
        **options,
    ) -> str:
        """The id of a job."""
        request = MergeRequest(
            adapter=adapter,
            destination=Destination(kind=options.pop("kind", "repository"), location=to),
            attended=False,
            requester_access=options.pop("access", "yes"),
            requested_by=by,
            **{"validation": "structure", "reload": "never", **options},
        )
        key = sha256(f"{verb} {adapter} {to} {by} {options}".encode()).hexdigest()[:32]
        job = Job(key=key, verb=verb, what=adapter, asked_by=by)
        return self.office.enqueue(Order(job=job, request=request, origin=Origin(host="cli"))).order.job.key

    def until(self, found: Callable[[], object], *, seconds: float = 240, every: float = 0.02) -> None:
        deadline = time.monotonic() + seconds
        while not found():
            if time.monotonic() > deadline:
                raise TimeoutError(self.logs())
            time.sleep(every)

    def ended(self, *ids: str, seconds: float = 240) -> Entry:
        """The (last) job, once all have ended."""
        self.until(lambda: all(self.office.entry(i).state not in ACTIVE for i in ids), seconds=seconds)
        return self.office.entry(ids[-1])

    def reaches(self, id_: str, stage: str) -> None:
        self.until(
            lambda: self.office.entry(id_).now.stage == stage or self.office.entry(id_).state not in ACTIVE
        )

    def logs(self) -> str:
        return "\n".join(
            f"{p.name}\n{p.read_text(errors='replace')[-6000:]}" for p in self.root.glob("*.log")
        )

    def commits(self, repo_id: str) -> list[str]:
        store = self.hub.state.store
        repo = store.find("model", repo_id)
        return [c.title for c in store.history(repo, store.resolve(repo, "main"))] if repo else []

    def leftovers(self) -> list[str]:
        """In scratch, beside what its own lock is."""
        return [p.name for p in self.root.glob("*/scratch/*") if not p.name.startswith(".")]
