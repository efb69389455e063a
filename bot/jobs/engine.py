"""One executor: takes what is in its queues, does it in steps, and hands back what it has when it is told to stop.

The only place where DBOS runs. One of them in a process, as DBOS has it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dbos import DBOS, DBOSConfig
from dbos._dbos import _get_dbos_instance
from dbos._error import DBOSAwaitedWorkflowCancelledError

from bot.errors import HostError
from bot.jobs.database import Database
from bot.jobs.dropped import Dropped
from bot.jobs.flow import Flow
from bot.jobs.lease import Lease
from bot.jobs.office import MOST, Office
from bot.jobs.order import ACTIVE
from bot.jobs.patience import patient
from bot.jobs.process import GRACE
from bot.jobs.queues import NAME, SERIALIZER, VERSION, address, is_spread
from bot.jobs.scratch import Scratch
from bot.log import about

RECOVERIES = 50  # of one workflow; then it is what kills us, and is given up
HANDS = 5.0  # seconds of a stop that handing back may take, beside what a step has to clear up
TIDIES = 5.0  # seconds: what a command has put into the ledger is in line by then
CALLED_OFF = ("was cancelled during execution", "Asyncio task cancelled for workflow or step")
log = logging.getLogger("bot.jobs")


class Engine:
    """`takes`: the queues, and how many workflows of each are begun at once."""

    def __init__(
        self, flow: Flow, *, database: Database, lease: Lease, scratch: Scratch, takes: Mapping[str, int]
    ) -> None:
        self._flow, self._database, self._lease = flow, database, lease
        self._scratch, self._takes = scratch, dict(takes)
        self.draining = False
        self._stop = threading.Event()
        self._tidier = threading.Thread(target=self._tidy, name="tidy", daemon=True)

    def start(self) -> None:
        """Begins to take jobs; returns at once. Raises HostError without the database."""
        self._flow.queues.prepare(self._takes)
        active = self._flow.ledger.entries(states=ACTIVE, limit=MOST)
        self._scratch.sweep(keep=frozenset(entry.make for entry in active if entry.make))
        self._lease.start()
        # In a thread without an event loop: DBOS takes a running one for its own, and ours has requests to answer.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(self._launch).result()
        self._tidier.start()

    def alive(self) -> bool:
        """Whether it has begun, goes on, and may go on: its lease is held."""
        return self._tidier.is_alive() and self._lease.alive()

    def stop(self, *, seconds: float) -> None:
        """Takes no more, waits that long for what it has, and hands the rest back. Blocks."""
        self.draining = True
        self._stop.set()
        if self._lease.gone:  # what we have is somebody else's
            seconds = 0
        # Less than there is: what is still going on then has to be called off, and handed back.
        DBOS.destroy(workflow_completion_timeout_sec=max(0, int(seconds - GRACE - HANDS)))
        self._lease.stop()

    def _tidy(self) -> None:
        office = Office(self._database, self._flow.queues)
        dropped = Dropped(self._lease.executor, queues=self._flow.queues, active=_active)
        while not self._stop.is_set():
            for work in (office.tidy, office.remind, dropped.look):
                try:
                    work()
                except HostError as error:
                    log.warning("nothing is tidied: %s", error.sentence)
                except Exception:  # the thread has to live as long as we do
                    log.exception("tidying met a fault of its own")
            self._stop.wait(TIDIES)

    def _launch(self) -> None:
        config: DBOSConfig = {
            "name": NAME,
            "system_database_url": address(self._database.url),
            "application_version": VERSION,
            "executor_id": self._lease.executor,
            "serializer": SERIALIZER,
            "log_level": "WARNING",
            "run_migrations": False,
        }
        logging.getLogger("dbos").addFilter(is_worth_a_line)
        DBOS(config=config)
        register(self._flow)
        DBOS.listen_queues(list(self._takes))
        DBOS.launch()


def register(flow: Flow) -> None:
    """Tells DBOS the workflows. Their steps may not change without `queues.VERSION`."""

    async def job(id_: str, attempt: int) -> None:
        with about(job=id_):
            if await _step(flow.begin, id_, attempt):
                await _preemptible(flow.plan, id_, attempt)
            await _step(flow.finish, id_, attempt)

    async def make(id_: str, document: dict[str, Any]) -> None:
        with about(make=id_):
            if await _step(flow.look, id_, document):
                if is_spread(document["runner"]):  # before anything is made: who calls it off has to know
                    await _step(flow.is_missing, id_, document)
                await _preemptible(flow.carry_out, id_, document)
            await _step(flow.hand_over, id_)

    async def shard(make: str, number: int, file: str, needed: int) -> dict[str, Any]:
        with about(make=make):
            done: dict[str, Any] = await _preemptible(flow.shard, make, number, file, needed)
            return done

    async def answer(id_: str, attempt: int) -> None:
        with about(job=id_):
            await _step(flow.answer, id_, attempt)
            await _step(flow.tell_others, id_, attempt)

    async def stop(id_: str, attempt: int) -> None:
        with about(job=id_):
            await _step(flow.stop, id_, attempt)

    for workflow in (job, make, shard, answer, stop):
        DBOS.workflow(name=workflow.__name__, max_recovery_attempts=RECOVERIES)(workflow)


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether DBOS tells of more than a job that was called off: to it that is an error, with a trace."""
    error = record.exc_info[1] if record.exc_info else None
    called_off = isinstance(error, DBOSAwaitedWorkflowCancelledError)
    said = record.getMessage()
    return not called_off and not any(words in said for words in CALLED_OFF)


def _active() -> frozenset[str]:
    return frozenset(_get_dbos_instance()._active_workflows_set.activeList())  # noqa: SLF001 - there is no public way


async def _step(function: Any, *given: Any) -> Any:
    return await DBOS.run_step_async({"name": function.__name__}, patient(function), *given)


async def _preemptible(function: Any, *given: Any) -> Any:
    """A step that is cancelled in the middle when its workflow is."""
    return await DBOS.run_step_async(
        {"name": function.__name__, "preemptible": True}, patient(function), *given
    )
