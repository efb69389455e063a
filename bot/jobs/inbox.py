"""Deliveries of webhooks, kept before they are answered: none is lost and none is kept twice.

Many that arrive together become one transaction, so that thousands a second can be durable on one disk. Who sent them
and what they mean is the doors' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from sqlalchemy import Connection, delete, or_, select, update

from bot.errors import HostError, MergeBotError
from bot.jobs.database import Database
from bot.jobs.tables import inbox

MOST = 1000  # deliveries in one transaction
PATIENCE = (
    8.0  # seconds; who sent it waits for ten and then gives up: better a fault, after which it comes again
)
LEASE = 60.0  # seconds that a delivery which was taken has to be finished; then it is given out again


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a host or watch told us. `key` is one of its kind, the same when it is delivered again.

    `source` is `github`, `hub` or `watch`, `event` its kind as it is called there, `body` what was sent.
    """

    key: str
    source: str
    event: str = ""
    body: bytes


_Waiting = tuple[Sequence[Delivery], "Future[None]"]


class Inbox:
    """The deliveries in the database, and the thread that writes them. `close` it: what was put before is written."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._lock, self._closed = Lock(), False
        self._writer = Thread(target=self._write_all, name="inbox", daemon=True)
        self._writer.start()

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Keeps what is not known yet; it is durable when this returns. Raises HostError, and may be called again."""
        self._submit(deliveries).result()

    async def put_async(self, deliveries: Sequence[Delivery]) -> None:
        """The same for an event loop. Cancelled: what was handed in is kept all the same."""
        await asyncio.shield(asyncio.wrap_future(self._submit(deliveries)))

    def take(self, *, limit: int = 100, lease: float = LEASE) -> tuple[Delivery, ...]:
        """The oldest that nobody works on, in the order they came; others do not get them for `lease` seconds."""
        return self._database.write(lambda connection: self._take(connection, limit=limit, lease=lease))

    def finish(self, keys: Sequence[str]) -> None:
        """They were seen to, and will not be given out again. Their bodies go."""

        def work(connection: Connection) -> None:
            done = update(inbox).where(inbox.c.key.in_(list(keys)), inbox.c.finished.is_(None))
            connection.execute(done.values(finished=self._database.now(), body=b""))

        self._database.write(work)

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing came of them: as if they had never been put."""
        gone = delete(inbox).where(inbox.c.key.in_(list(keys)), inbox.c.finished.is_(None))
        self._database.write(lambda connection: connection.execute(gone))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._queue.put(None)
        self._writer.join()

    def _submit(self, deliveries: Sequence[Delivery]) -> Future[None]:
        future: Future[None] = Future()
        with self._lock:
            if self._closed:
                advice = "Try again in a moment."
                raise HostError("The service is about to stop.", advice=advice, code="service-stops")
            self._queue.put((deliveries, future))
        return future

    def _write_all(self) -> None:
        going = True
        while going:
            group = self._group()
            going = None not in group
            self._write_group([waiting for waiting in group if waiting is not None])

    def _group(self) -> list[_Waiting | None]:
        """Waits for one, and takes what has come with it."""
        group = [self._queue.get()]
        with suppress(Empty):
            while len(group) < MOST and group[-1] is not None:
                group.append(self._queue.get_nowait())
        return group

    def _write_group(self, group: list[_Waiting]) -> None:
        try:
            self._write([delivery for deliveries, _ in group for delivery in deliveries])
        except Exception as error:  # noqa: BLE001 - whoever waits gets it, and the thread lives on
            if len(group) > 1 and not isinstance(error, MergeBotError):
                for waiting in group:  # something in it that the database does not take, such as a null byte
                    self._write_group([waiting])
                return
            for _, future in group:
                future.set_exception(error)
        else:
            for _, future in group:
                future.set_result(None)

    def _write(self, deliveries: list[Delivery]) -> None:
        if not deliveries:
            return

        new = self._database.insert(inbox).values(received=self._database.now()).on_conflict_do_nothing()
        rows = [vars(delivery) for delivery in deliveries]
        self._database.write(lambda connection: connection.execute(new, rows), patience=PATIENCE)

    def _take(self, connection: Connection, *, limit: int, lease: float) -> tuple[Delivery, ...]:
        now = connection.scalar(select(self._database.now())) or 0.0
        # Behind the lease also means far ahead of the clock: it was set back in the meantime.
        free = or_(inbox.c.taken.is_(None), inbox.c.taken < now - lease, inbox.c.taken > now + lease)
        waiting = select(inbox).where(inbox.c.finished.is_(None), free).order_by(inbox.c.number).limit(limit)
        rows = connection.execute(waiting.with_for_update(skip_locked=True)).all()
        taken = update(inbox).where(inbox.c.number.in_([row.number for row in rows]))
        connection.execute(taken.values(taken=now))
        return tuple(
            Delivery(key=row.key, source=row.source, event=row.event, body=bytes(row.body)) for row in rows
        )
