"""Jobs on the hub's machines: each is a real process here, its volumes are folders made of the hub's repositories."""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import HubError
from .store import Store

HERE = Path(__file__).parents[2]
DEFAULT_SECONDS = 1800  # which the Hub takes where nobody says
LABEL = re.compile(r"[A-Za-z0-9_-]{1,100}")
# Prices and sizes as the Hub had them, of a few.
HARDWARE: list[dict[str, Any]] = [
    {"name": "cpu-basic", "cpu": "2 vCPU", "ram": "16 GB", "ephemeralStorage": "50 GB", "unitCostUSD": 0.000167},
    {"name": "cpu-upgrade", "cpu": "8 vCPU", "ram": "32 GB", "ephemeralStorage": "50 GB", "unitCostUSD": 0.0005},
    {"name": "t4-small", "cpu": "4 vCPU", "ram": "15 GB", "ephemeralStorage": "50 GB", "unitCostUSD": 0.00667,
     "accelerator": {"model": "T4", "vram": "16 GB"}},
    {"name": "l4x1", "cpu": "8 vCPU", "ram": "30 GB", "ephemeralStorage": "400 GB", "unitCostUSD": 0.01333,
     "accelerator": {"model": "L4", "vram": "24 GB"}},
    {"name": "a100-large", "cpu": "12 vCPU", "ram": "142 GB", "ephemeralStorage": "1000 GB", "unitCostUSD": 0.04167,
     "accelerator": {"model": "A100", "vram": "80 GB"}},
]  # fmt: skip


def shown(hardware: dict[str, Any]) -> dict[str, Any]:
    """A machine as the API lists it."""
    made = {"prettyName": hardware["name"], "unitLabel": "minute", **hardware}
    made["unitCostMicroUSD"] = round(hardware["unitCostUSD"] * 1e6)
    if "accelerator" in hardware:
        made["accelerator"] = {
            "type": "gpu",
            "quantity": "1",
            "manufacturer": "Nvidia",
            **hardware["accelerator"],
        }
    return made


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Job:
    """One job, from its spec on."""

    id: str
    namespace: str
    spec: dict[str, Any]
    created: str = field(default_factory=_now)
    stage: str = "SCHEDULING"
    message: str | None = None
    begun: float | None = None
    over: float | None = None
    process: subprocess.Popen[bytes] | None = None
    called_off: bool = False
    log: list[dict[str, str]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.stage not in ("SCHEDULING", "RUNNING")

    @property
    def seconds(self) -> int | None:
        return None if self.begun is None else round((self.over or time.monotonic()) - self.begun)

    def say(self, text: str) -> None:
        self.log.append({"data": text, "timestamp": _now()})

    def end(self, stage: str, message: str | None = None) -> None:
        self.over, self.stage, self.message = time.monotonic(), stage, message

    def kill(self) -> None:
        """As the kernel does when memory is over, and the machine when somebody calls the job off."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def info(self) -> dict[str, Any]:
        owner = {"id": self.namespace, "name": self.namespace, "type": "user"}
        hidden = {"secrets": dict.fromkeys(self.spec.get("secrets", {}), "")}
        times = {"schedulingSecs": 0, "runningSecs": self.seconds, "totalSecs": self.seconds or 0}
        return {
            **self.spec, **hidden, "id": self.id, "createdAt": self.created, "owner": owner, "durations": times,
            "initiator": owner, "status": {"stage": self.stage, "message": self.message},
        }  # fmt: skip


class Jobs:
    """All jobs. `images` are those that can be pulled; in ours, `merge-bot` is this checkout's.

    `delay` is how many seconds a job waits for a machine; `filters`: whether a list heeds the labels asked for.
    """

    def __init__(self, root: Path, *, store: Store) -> None:
        self._root, self._store = root / "jobs", store
        self.images = {"merge-bot:test"}
        self.hardware = HARDWARE
        self.delay = 0.0
        self.filters = True
        self.environment: dict[str, str] = {}
        self.all: dict[str, Job] = {}
        self._changed = threading.Condition()

    def start(self, namespace: str, spec: dict[str, Any]) -> Job:
        """Checks what was sent, and begins."""
        if spec.get("flavor") not in {one["name"] for one in self.hardware}:
            raise HubError(400, f"Invalid flavor: {spec.get('flavor')}")
        for name, text in (spec.get("labels") or {}).items():
            if not (LABEL.fullmatch(name) and LABEL.fullmatch(text)):
                raise HubError(400, f"Invalid label: {name}={text}")
        job = Job(id=secrets.token_hex(12), namespace=namespace, spec=spec)
        self.all[job.id] = job
        threading.Thread(target=self._run, args=(job,), daemon=True).start()
        return job

    def find(self, namespace: str, id_: str) -> Job:
        job = self.all.get(id_)
        if job is None or job.namespace != namespace:
            raise HubError(404, "Job not found")
        return job

    def cancel(self, job: Job) -> None:
        job.called_off = True
        job.kill()
        if job.process is None and not job.ended:
            job.end("CANCELED")

    def close(self) -> None:
        for job in self.all.values():
            self.cancel(job)

    def events(self, job: Job, *, tail: int | None = None) -> Iterator[bytes]:
        """The log as server-sent events, until the job ends."""
        at = max(0, len(job.log) - tail) if tail is not None else 0
        while True:
            over = job.ended
            while at < len(job.log):
                yield f"data: {json.dumps(job.log[at])}\n\n".encode()
                at += 1
            if over:
                return
            with self._changed:
                self._changed.wait(0.1)

    def _run(self, job: Job) -> None:
        waited = time.monotonic() + self.delay
        while time.monotonic() < waited and not job.called_off:
            time.sleep(0.02)
        if job.called_off:
            return
        if job.spec.get("dockerImage") not in self.images:
            job.end("ERROR", "Failed to pull image: ImagePullBackOff")
            return
        folder = self._root / job.id
        environment, command = self._prepared(job, folder)
        job.begun, job.stage = time.monotonic(), "RUNNING"
        job.say(f"===== Job started at {job.created} =====")
        job.process = subprocess.Popen(
            command, env=environment, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        if job.called_off:
            job.kill()
        limit = job.spec.get("timeoutSeconds") or DEFAULT_SECONDS
        timer = threading.Timer(limit, self._too_late, args=(job,))
        timer.start()
        for line in job.process.stdout:
            job.say(line.decode(errors="replace").rstrip("\n"))
            with self._changed:
                self._changed.notify_all()
        code = job.process.wait()
        timer.cancel()
        shutil.rmtree(folder)
        self._close(job, code)

    def _close(self, job: Job, code: int) -> None:
        if job.message is not None:
            job.end("ERROR", job.message)
        elif job.called_off:
            job.end("CANCELED")
        elif code:
            number, why = (137, "OOMKilled") if code == -signal.SIGKILL else (code, "Error")
            job.end("ERROR", f"Job failed with exit code: {number}. Reason: {why}")
        else:
            job.end("COMPLETED")

    def _too_late(self, job: Job) -> None:
        job.message = "Job timeout"
        job.kill()

    def _prepared(self, job: Job, folder: Path) -> tuple[dict[str, str], list[str]]:
        """Environment and command, with the folders of the volumes in the place of where they are mounted."""
        places = {}
        for volume in job.spec.get("volumes") or []:
            place = folder / volume["mountPath"].strip("/")
            self._materialise(volume, place)
            places[volume["mountPath"]] = str(place)

        def placed(text: str) -> str:
            for mount, place in places.items():
                text = text.replace(f"={mount}", f"={place}")
            return text

        home = folder / "home"
        home.mkdir(parents=True)
        given = {**job.spec.get("environment", {}), **job.spec.get("secrets", {})}
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HF_HOME": str(home / "huggingface"),
            "MERGE_BOT_SCRATCH": str(home / "scratch"),
            **self.environment,
            **{name: placed(str(text)) for name, text in given.items()},
        }
        program, *rest = job.spec["command"]
        ours = [sys.executable, "-m", "bot"] if program == "merge-bot" else [program]
        return environment, [*ours, *rest]

    def _materialise(self, volume: dict[str, Any], place: Path) -> None:
        repo = self._store.find(volume["type"], volume["source"])
        if repo is None:
            raise HubError(404, f"No such volume: {volume['source']}")
        commit = self._store.resolve(repo, volume.get("revision") or "main")
        for path, entry in commit.files.items():
            target = place / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._store.blobs.path(entry.sha256), target)
