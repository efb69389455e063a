"""Jobs on the Hub's own machines: what there is to rent, start, find again, follow, call off.

See https://huggingface.co/docs/huggingface_hub/guides/jobs. Starting is the one call that is not tried again blindly:
whoever starts finds by its label what was started before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from huggingface_hub import HfApi, JobHardwareInfo, JobInfo, Volume

from bot.clients.http import retrying
from bot.clients.hub_errors import translated

AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", re.IGNORECASE)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
ENDED = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})
LABEL, OF = "merge-bot", "merge-bot-of"  # what a job is found again by, and what all tries at the same share
OWN = "merge-bot-own"  # what one job alone has
WORD = "merge-bot-may-publish"  # with the id of the job that may
MINUTES = {"second": 1 / 60, "minute": 1.0, "hour": 60.0}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A kind of machine: bytes of memory, of disk and of its GPU (0: none), US dollars for a minute."""

    name: str
    memory: int
    disk: int
    gpu: int = 0
    dollars_per_minute: float


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A repository of models at a commit, to be seen at `place`."""

    repository: str
    commit: str
    place: str


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A job to be started: `key` is its label, by which it is found again, and `of` what other tries have, too.

    A key comes again in a later try or with another database; `own` is random, and this job's alone. `secrets` are
    hidden from those who look.
    """

    image: str
    command: tuple[str, ...]
    flavor: str
    seconds: int
    key: str
    of: str
    own: str
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    volumes: tuple[Mounted, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HubJob:
    """A job as the Hub shows it.

    `stage` is SCHEDULING, RUNNING, COMPLETED, CANCELED, ERROR or DELETED; `seconds` is how long it has run, which is
    what it costs; None: it has not begun to. `allowed`: it has been given the word that it waits for.
    """

    id: str
    url: str
    flavor: str
    stage: str
    message: str = ""
    seconds: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> bool:
        return self.labels.get(WORD) == self.id  # a copy of a job has a copy of its labels

    @property
    def ended(self) -> bool:
        """Whether it is over, in whatever way."""
        return self.stage in ENDED


class HubJobs:
    """The jobs of one namespace, which pays for them; without one, the token's user does.

    Its methods raise AccessError, HostError or InputError.
    """

    def __init__(self, endpoint: str, *, token: str, namespace: str | None, attempts: int) -> None:
        self._api = HfApi(endpoint=endpoint, token=token)
        self._given, self._attempts = namespace, attempts

    @cached_property
    def _namespace(self) -> str:
        """Asked for once: left to itself, the client would ask at every call, and the Hub limits that question."""
        if self._given is not None:
            return self._given
        with translated("ask the Hub whose the token is"):
            return str(retrying(self._api.whoami, attempts=self._attempts)["name"])

    def hardware(self) -> tuple[Hardware, ...]:
        """What may be rented now."""
        with translated("list the Hub's machines"):
            found = retrying(self._api.list_jobs_hardware, attempts=self._attempts)
        return tuple(made for one in found if (made := _hardware(one)) is not None)

    def find(self, key: str, *, label: str = LABEL) -> tuple[HubJob, ...]:
        """The jobs with this label, the oldest first."""

        def listed() -> list[JobInfo]:
            every = self._api.list_jobs(labels={label: key}, namespace=self._namespace)
            # Jobs are released and cancelled by this list: that the Hub has chosen by the label is not relied on.
            return [one for one in every if (one.labels or {}).get(label) == key]

        with translated(f"list the jobs of {self._namespace}"):
            found = retrying(listed, attempts=self._attempts)
        return tuple(_job(one) for one in sorted(found, key=lambda one: (str(one.created_at), one.id)))

    def start(self, wanted: Wanted) -> HubJob:
        """Starts it, once: an answer that was lost may have started one, which `find` then shows."""
        volumes = [
            Volume(
                type="model",
                source=one.repository,
                revision=one.commit,
                mount_path=one.place,
                read_only=True,
            )
            for one in wanted.volumes
        ]
        with translated(f"start a job of {self._namespace}"):
            made = self._api.run_job(
                image=wanted.image,
                command=[*wanted.command],
                env=dict(wanted.environment),
                secrets=dict(wanted.secrets),
                flavor=wanted.flavor,
                timeout=wanted.seconds,
                attempts=1,
                labels={
                    LABEL: wanted.key,
                    OF: wanted.of,
                    OWN: wanted.own,
                    "name": f"merge-bot-{wanted.key[:12]}",
                },
                volumes=volumes,
                namespace=self._namespace,
            )
        return _job(made)

    def look(self, id_: str) -> HubJob:
        """How it is now."""
        with translated(f"look at the job {id_}"):
            return _job(retrying(lambda: self._inspect(id_), attempts=self._attempts))

    def _inspect(self, id_: str) -> JobInfo:
        return self._api.inspect_job(job_id=id_, namespace=self._namespace)

    def cancel(self, id_: str) -> None:
        """Calls it off. One that has ended stays as it is."""

        def call() -> None:
            self._api.cancel_job(job_id=id_, namespace=self._namespace)

        with translated(f"cancel the job {id_}"):
            retrying(call, attempts=self._attempts)

    def allow(self, job: HubJob) -> HubJob:
        """Gives it the word that it waits for: a label, which it sees without being reached from outside."""
        labels = {**job.labels, WORD: job.id}

        def call() -> None:
            self._api.update_job_labels(job_id=job.id, labels=labels, namespace=self._namespace)

        with translated(f"give the job {job.id} its word"):
            retrying(call, attempts=self._attempts)
        return replace(job, labels=labels)

    def lines(self, id_: str) -> Iterator[str]:
        """Its log from the beginning, line by line as it is written, until it ends. A cut connection is made again."""
        with translated(f"read the log of the job {id_}"):
            for line in self._api.fetch_job_logs(job_id=id_, namespace=self._namespace, follow=True):
                yield line.rstrip("\n")


def _hardware(found: JobHardwareInfo) -> Hardware | None:
    """None for a price by a unit that we do not know: it is not guessed."""
    minutes = MINUTES.get(found.unit_label)
    if minutes is None:
        return None
    return Hardware(
        name=found.name,
        memory=_bytes(found.ram),
        disk=_bytes(found.ephemeral_storage),
        gpu=_bytes(found.accelerator.vram) if found.accelerator else 0,
        dollars_per_minute=found.unit_cost_usd / minutes,
    )


def _bytes(text: str) -> int:
    """`16 GB`; what cannot be read is 0, which is too small for everything."""
    found = AMOUNT.fullmatch(text)
    return int(float(found[1]) * UNITS[found[2].upper()]) if found else 0


def _job(found: JobInfo) -> HubJob:
    running = found.durations.running_secs if found.durations else None
    return HubJob(
        id=found.id,
        url=found.url,
        flavor=str(getattr(found.flavor, "value", found.flavor) or ""),
        stage=str(getattr(found.status.stage, "value", found.status.stage)),
        message=found.status.message or "",
        seconds=None if running is None else float(running),
        labels=dict(found.labels or {}),
    )
