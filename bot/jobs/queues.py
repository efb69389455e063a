"""DBOS as the service uses it: its queues, and what anybody with the database may do to workflows in them.

Nothing is run here: `bot.jobs.engine` does. What is stored is JSON, never pickle: arguments are ids and records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from threading import Lock
from typing import Any, TypeVar

from dbos import DBOS, DBOSClient
from dbos._serialization import DBOSPortableJSON
from dbos._utils import INTERNAL_QUEUE_NAME
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from bot.errors import HostError
from bot.jobs import faults
from bot.jobs.database import Database

T = TypeVar("T")
NAME = "merge-bot"
# Raised by hand when the steps of a workflow become others: one that has begun is only gone on with by its own version.
# DBOS would take a hash of the source, and leave the jobs of yesterday's release lying for ever.
VERSION = "1"
SERIALIZER = DBOSPortableJSON
JOBS, LOCAL, HF_JOBS, POOL = "jobs", "local", "hf-jobs", "pool-"
SPREAD = "spread"  # makes that wait for their shards; those lie in the queue of the runner behind the colon
ANSWERS, STOPS = "answers", "stops"  # of their own: whoever waits for one does not wait for a thousand plans
DEAD = frozenset({"ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})
ENDED = ["SUCCESS", "CANCELLED", *sorted(DEAD)]
MOST = 500  # workflows that are looked at in one queue
EVERY = 0.5  # seconds between two looks into a queue


def queue_of(runner: str) -> str:
    """The queue of a runner: `pool:gpu-24g` has `pool-gpu-24g`; every `spread:RUNNER` has the same."""
    return SPREAD if is_spread(runner) else runner.replace("pool:", POOL)


def is_spread(runner: str) -> bool:
    """Whether a make goes shard by shard, each a workflow of its own."""
    return runner.startswith(f"{SPREAD}:")


def shard_id(make: str, number: int) -> str:
    """The id of the workflow that makes one shard."""
    return f"{make}.{number}"


def make_of(id_: str) -> str:
    """The id of the make that a workflow is, or is a shard of."""
    return id_.partition(".")[0]


def job_id(id_: str, attempt: int) -> str:
    """The id of the workflow that plans a job."""
    return f"{id_}-{attempt}"


def answer_id(id_: str, attempt: int) -> str:
    """The id of the workflow that tells how a job ended."""
    return f"{job_id(id_, attempt)}-answer"


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
        self._lock = Lock()
        self._made: DBOSClient | None = None

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

    def shard(self, make: str, number: int, *, file: str, needed: int, runner: str) -> None:
        """Puts one shard of a make in the line of the make's runner; `needed`: bytes of scratch space."""
        queue = queue_of(runner.removeprefix(f"{SPREAD}:"))
        self._start("shard", make, number, file, needed, id_=shard_id(make, number), queue=queue)

    def answer(self, id_: str, attempt: int) -> None:
        """Puts it in line that somebody is told how their job ended."""
        self._start("answer", id_, attempt, id_=answer_id(id_, attempt), queue=ANSWERS)

    def stop(self, id_: str, attempt: int) -> None:
        """Puts it in line that a job is called off."""
        self._start("stop", id_, attempt, id_=f"{job_id(id_, attempt)}-stop", queue=STOPS)

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

    def given(self, make: str) -> tuple[dict[str, Any], bool]:
        """The document of a make, which is empty where there is none, and whether its destination was missing."""
        found = self._asked(lambda: self._client.list_workflows(workflow_ids=[make], load_output=False))
        if not found or found[0].input is None:
            return {}, False
        steps = self._asked(lambda: self._client.list_workflow_steps(make))
        missing = any(step["function_name"] == "is_missing" and step["output"] for step in steps)
        return found[0].input["args"][1], missing

    def results(self, ids: Iterable[str]) -> dict[str, Any]:
        """What those have come to that have ended well."""
        asked = partial(
            self._client.list_workflows, workflow_ids=list(ids), status="SUCCESS", load_input=False
        )
        return {each.workflow_id: each.output for each in self._asked(asked)}

    def shards(self, make: str) -> list[str]:
        """The ids of a make's shards that have not ended."""
        asked = partial(
            self._client.list_workflows,
            workflow_id_prefix=shard_id(make, 0)[:-1],
            status=["ENQUEUED", "PENDING"],
            load_input=False,
            load_output=False,
        )
        return [each.workflow_id for each in self._asked(asked)]

    def cancel_shards(self, make: str) -> None:
        """Ends those of a make's shards that have not ended."""
        for id_ in self.shards(make):
            self.cancel(id_)

    def states(self, ids: Iterable[str]) -> dict[str, str]:
        """DBOS's word for how each stands; those that were never begun are not in it."""
        found: dict[str, str] = {}
        for names in batched(list(ids)):
            asked = partial(
                self._client.list_workflows, workflow_ids=names, load_input=False, load_output=False
            )
            found |= {each.workflow_id: each.status for each in self._asked(asked)}
        return found

    def waiting(self, queue: str, *, since: float) -> tuple[str, ...]:
        """What has waited in a queue since before that time, if nobody has taken anything from it since then."""
        asked = partial(
            self._client.list_workflows,
            queue_name=queue,
            sort_desc=True,
            limit=MOST,
            load_input=False,
            load_output=False,
        )
        there = self._asked(asked)
        taken = [each for each in there if each.status != "ENQUEUED"]
        if any(each.status == "PENDING" or (each.updated_at or 0) > since * 1000 for each in taken):
            return ()
        return tuple(
            each.workflow_id for each in there if each not in taken and (each.created_at or 0) < since * 1000
        )

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
        There is no public way.
        """
        there = self.begun(executor)
        for name in there:
            self.put_back(name, executor)
        return len(there)

    def begun(self, executor: str) -> list[str]:
        """The ids of what this executor has begun and not ended."""
        system = self._client._sys_db  # noqa: SLF001 - as in `hand_back`
        found = self._asked(lambda: system.get_pending_workflows(executor, VERSION))
        return [each.workflow_id for each in found]

    def put_back(self, id_: str, executor: str) -> None:
        """This one goes back into its queue, if that executor still has it."""
        system = self._client._sys_db  # noqa: SLF001 - as in `hand_back`
        self._asked(lambda: system.reenqueue_for_recovery(id_, [executor], INTERNAL_QUEUE_NAME))

    def close(self) -> None:
        """Lets go of the database."""
        if self._made is not None:
            self._made.destroy()

    @property
    def _client(self) -> DBOSClient:
        with (
            self._lock
        ):  # many threads ask; `cached_property` would make one for each of them from Python 3.12 on
            if self._made is None:
                self._made = DBOSClient(
                    system_database_url=address(self._database.url),
                    serializer=SERIALIZER,
                    application_name=NAME,
                    lazy=True,
                    retry_connection_errors=False,
                )
            return self._made

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except PoolTimeoutError as error:
            raise HostError(
                f"The database {self._database.place} is too busy: no connection to it became free.",
                advice="Try again in a moment.",
                code="database-gone",
            ) from error
        except DBAPIError as error:
            ours = faults.as_ours(error, place=self._database.place)
            if ours is None:
                raise
            raise ours from error
