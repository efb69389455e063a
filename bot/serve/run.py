"""Runs the service until it is told to stop, and then brings it to an end without losing anything."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Protocol

import uvicorn
from fastapi import FastAPI

from bot.serve.connections import config
from bot.serve.service import Service

if TYPE_CHECKING:
    from socket import socket

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LEAST = 1.0  # seconds that answers under way have at the end, however long the jobs took
log = logging.getLogger("bot.serve")


class Work(Protocol):
    """The local worker."""

    def start(self) -> None:
        """Begins to take jobs; returns at once."""

    def stop(self, *, seconds: float) -> None:
        """Takes no more, waits that long for what it has, and hands the rest back. Blocks."""


async def run(
    service: Service, doors: Sequence[tuple[FastAPI, socket]], *, work: Work | None, seconds: float
) -> None:
    """Answers at each socket with its application, and works, until SIGTERM or Ctrl-C; a second one kills.

    Then the jobs are handed back while webhooks are still stored, then the sockets close, and what is being answered is
    finished: all of it within `seconds`.
    """
    servers = [_Server(config(app, service.limits)) for app, _ in doors]
    asked = _stop_asked()
    going = [
        asyncio.create_task(server.serve(sockets=[at]))
        for server, (_, at) in zip(servers, doors, strict=True)
    ]
    begun = asyncio.create_task(_begun(work, asked))
    await asyncio.wait([asyncio.create_task(asked.wait()), *going], return_when=asyncio.FIRST_COMPLETED)
    service.drain.begun = True
    until = time.monotonic() + seconds
    _leave_at(seconds + LEAST)
    log.info("the service stops: jobs are handed back, and what is being answered is finished")
    if work is not None and await begun:
        await _handed_back(work, seconds=max(0.0, seconds - LEAST))
    for server in servers:
        server.config.timeout_graceful_shutdown = max(int(LEAST), int(until - time.monotonic()))
        server.handle_exit(signal.SIGTERM, None)  # what streams of events listen for, too
    await asyncio.gather(*going)
    await begun  # and its error, if it is why we are here
    log.info("the service has stopped")


class _Server(uvicorn.Server):
    """Signals are ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _stop_asked() -> asyncio.Event:
    """Set by the first signal; from then on a signal does what it does by default."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        for one in SIGNALS:
            loop.remove_signal_handler(one)
            signal.signal(one, signal.SIG_DFL)
        asked.set()

    for one in SIGNALS:
        loop.add_signal_handler(one, stop)
    return asked


async def _begun(work: Work | None, asked: asyncio.Event) -> bool:
    """Has it begin beside what is answered already. What keeps it from that ends the service."""
    try:
        if work is not None:
            await asyncio.to_thread(work.start)
    except BaseException:
        asked.set()
        raise
    # What is here now stays to the end. Each look through it for garbage would hold all answers up, for 100 ms.
    gc.freeze()
    return True


async def _handed_back(work: Work, *, seconds: float) -> None:
    """In a thread of its own, which the process does not wait for at its end."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def hand_back() -> None:
        try:
            work.stop(seconds=seconds)
        except Exception:
            log.exception("the jobs could not be handed back; they are taken over after the next start")
        loop.call_soon_threadsafe(done.set)

    Thread(target=hand_back, name="hand-back", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
    except TimeoutError:
        log.warning("the jobs are not handed back in time; they are taken over after the next start")


def _leave_at(seconds: float) -> None:
    """The end of it, also where some library's thread would not let the process go."""

    def leave() -> None:
        time.sleep(seconds)
        logging.shutdown()
        os._exit(0)

    Thread(target=leave, name="leave", daemon=True).start()
