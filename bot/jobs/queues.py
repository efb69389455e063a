"""DBOS as the service uses it: its queues, and what anybody with the database may do to workflows in them.

Nothing is run here: `bot.jobs.engine` does. What is stored is JSON, never pickle: arguments are ids and records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any, TypeVar

from dbos import DBOS, DBOSClient
from dbos._serialization import DBOSPortableJSON
from dbos._utils import INTERNAL_QUEUE_NAME
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from bot.jobs import faults
from bot.jobs.database import Database

T = TypeVar("T")
NAME = "merge-bot"
# Raised by hand when the steps of a workflow become others: one that has begun is only gone on with by its own version.
# DBOS would take a hash of the source, and leave the jobs of yesterday's release lying for ever.
VERSION = "1"
SERIALIZER = DBOSPortableJSON
JOBS, LOCAL, HF_JOBS, POOL = "jobs", "local", "hf-jobs", "pool-"
DEAD = frozenset({"ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})
ENDED = ["SUCCESS", "CANCELLED", *sorted(DEAD)]
EVERY = 0.5  # seconds between two looks into a queue


def queue_of(runner: str) -> str:
    """The queue of a runner: `pool:gpu-24g` has `pool-gpu-24g`."""
    return runner.replace("pool:", POOL)


def job_id(id_: str, attempt: int) -> str:
    """The id of the workflow that plans a job."""
    return f"{id_}-{attempt}"


def address(url: URL) -> str:
    """The URL as DBOS takes it, password and all."""
    plain = url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql")
    return plain.render_as_string(hide_password=False)


def batched(ids: list[str], size: int = 500) -> Iterator[list[str]]:
    """So many at once as every database takes."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


class Queues:
    """The workflows in the database. Every method raises HostError (`database-gone`) while that is out of reach.

    An id is begun once, however often it is asked for.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def prepare(self, most: Mapping[str, int]) -> None:
        """Makes DBOS's tables and these queues, which begin so many at once on each executor."""
        url = address(self._database.url)
        self._asked(lambda: DBOS.migrate(url))
        for name, count in most.items():
            options: Any = {"worker_concurrency": count, "polling_interval_sec": EVERY}
            self._asked(partial(self._client.register_queue, name, **options))

    def job(self, id_: str, attempt: int) -> None:
        """Puts an attempt at a job in line."""
        self._start("job", id_, attempt, id_=job_id(id_, attempt))

    def make(self, id_: str, document: dict[str, Any], *, runner: str) -> None:
        """Puts a merge in the line of its runner; `document` is the `Make` as plain values."""
        self._start("make", id_, document, id_=id_, queue=queue_of(runner))

    def answer(self, id_: str, attempt: int) -> None:
        """Puts it in line that somebody is told how their job ended."""
        self._start("answer", id_, attempt, id_=f"{job_id(id_, attempt)}-answer")

    def stop(self, id_: str, attempt: int) -> None:
        """Puts it in line that a job is called off."""
        self._start("stop", id_, attempt, id_=f"{job_id(id_, attempt)}-stop")

    def _start(self, workflow: str, *given: Any, id_: str, queue: str = JOBS) -> None:
        options: Any = {
            "workflow_name": workflow,
            "queue_name": queue,
            "workflow_id": id_,
            "app_version": VERSION,
        }
        self._asked(lambda: self._client.enqueue(options, *given))

    def cancel(self, id_: str) -> None:
        """It does not begin any more, or its step hears of it within a second. One that has ended stays as it is."""
        self._asked(lambda: self._client.cancel_workflow(id_))

    def states(self, ids: Iterable[str]) -> dict[str, str]:
        """DBOS's word for how each stands; those that were never begun are not in it."""
        found: dict[str, str] = {}
        for names in batched(list(ids)):
            asked = partial(
                self._client.list_workflows, workflow_ids=names, load_input=False, load_output=False
            )
            found |= {each.workflow_id: each.status for each in self._asked(asked)}
        return found

    def forget(self, *, before: float) -> None:
        """Removes what was put in line before that time, in seconds since 1970, and has ended."""
        until = datetime.fromtimestamp(before, UTC).isoformat()
        asked = partial(
            self._client.list_workflows,
            end_time=until,
            status=ENDED,
            limit=500,
            load_input=False,
            load_output=False,
        )
        while ended := [each.workflow_id for each in self._asked(asked)]:
            self._asked(partial(self._client.delete_workflows, ended))

    def hand_back(self, executor: str) -> int:
        """What this executor had begun goes back into its queues, for whoever is next; the answer is how much.

        Only for one that does not work any more. DBOS does this at start for its own executor id and, in
        `DBOS._recover_pending_workflows`, for others; what that calls is called here, where nothing has to run.
        """
        system = self._client._sys_db  # noqa: SLF001 - there is no public way; test_takeover watches it
        there = self._asked(lambda: system.get_pending_workflows(executor, VERSION))
        for each in there:
            name = each.workflow_id
            self._asked(partial(system.reenqueue_for_recovery, name, [executor], INTERNAL_QUEUE_NAME))
        return len(there)

    def close(self) -> None:
        """Lets go of the database."""
        if "_client" in vars(self):
            self._client.destroy()

    @cached_property
    def _client(self) -> DBOSClient:
        return DBOSClient(
            system_database_url=address(self._database.url),
            serializer=SERIALIZER,
            application_name=NAME,
            lazy=True,
            retry_connection_errors=False,
        )

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except DBAPIError as error:
            ours = faults.as_ours(error, place=self._database.place)
            if ours is None:
                raise
            raise ours from error
