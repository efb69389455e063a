"""Follows the log of a job on the Hub in a thread, and passes it on in the event loop's."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

from bot.clients.hub_jobs import HubJob, HubJobs
from bot.errors import HostError, MergeBotError
from bot.job import Outcome
from bot.jobs.runners.runner import Log, Tell
from bot.jobs.runners.spoken import Heard

AGAIN = 5.0  # seconds until a log that could not be read is asked for again
PATIENCE = 30.0  # seconds that the rest of the log of an ended job is waited for


class Listening:
    """Starts at once. A log that breaks off is read again from its beginning, and each line is passed on once."""

    def __init__(self, jobs: HubJobs, job: HubJob, *, tell: Tell, log: Log) -> None:
        self._jobs, self._job, self._log = jobs, job, log
        self._heard = Heard(tell=tell, log=log)
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        self._stop = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def outcome(self) -> Outcome | None:
        """How the job says it has ended; None when it has not said so."""
        return self._heard.outcome

    @property
    def asks(self) -> bool:
        """Whether the job has asked if it may publish."""
        return self._heard.asks

    async def finished(self) -> None:
        """Waits until the log is over, and not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self._done.wait()

    def stop(self) -> None:
        """Passes nothing on any more."""
        self._stop.set()

    def _listen(self) -> None:
        seen = 0
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            while not self._stop.is_set():
                try:
                    for number, line in enumerate(self._jobs.lines(self._job.id)):
                        if self._stop.is_set():
                            return
                        if number >= seen:
                            seen += 1
                            self._loop.call_soon_threadsafe(self._heard.line, line)
                    break
                except HostError:
                    self._stop.wait(AGAIN)
                except MergeBotError as error:  # it is gone, or not ours to read
                    self._loop.call_soon_threadsafe(self._log, error.sentence)
                    break
            self._loop.call_soon_threadsafe(self._done.set)
