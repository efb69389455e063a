"""A report's pictures, drawn by a process of its own: the server stays small, and strangers' names stay out of it.

As a program: evidence as JSON on standard input, pictures as JSON (path → base64 of the PNG) on standard output.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

from bot.errors import HostError
from bot.evidence import Evidence
from bot.jobs.order import Entry
from bot.publish.pictures import drawn
from bot.serial import as_dict, from_dict
from bot.settings import worker_environment
from bot.temporary import TemporaryFolder

ROOT = Path(__file__).parents[3]
PATIENCE = 60  # seconds
KEPT = 64  # reports
WAITING = 8  # that are to be drawn, with the one that is
Key = tuple[str, int]
log = logging.getLogger("bot.serve")


class Drawings:
    """The pictures of the reports that were last looked at.

    One report is drawn at a time, and whoever waits for it takes no thread: drawing keeps no other page waiting.
    """

    def __init__(self) -> None:
        self._one = asyncio.Lock()
        self._home = TemporaryFolder("drawing")  # matplotlib keeps its list of fonts there
        self._kept: OrderedDict[Key, dict[str, bytes]] = OrderedDict()
        self._going: dict[Key, asyncio.Task[dict[str, bytes]]] = {}

    async def of(self, entry: Entry) -> dict[str, bytes]:
        """The pictures as PNG by their paths; none where there is no report, or where drawing fails.

        Raises HostError while too many others are to be drawn.
        """
        report = entry.outcome.report if entry.outcome else None
        if report is None:
            return {}
        key = entry.order.job.key, entry.attempt
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._going:
            if len(self._going) >= WAITING:
                raise HostError("Pictures are being drawn.", advice="Try again in a minute.", code="busy")
            self._going[key] = asyncio.create_task(self._draw(key, report.evidence))
        return await asyncio.shield(self._going[key])  # others may wait for it, too

    async def _draw(self, key: Key, found: Evidence) -> dict[str, bytes]:
        try:
            async with self._one:
                self._kept[key] = await asyncio.to_thread(_drawn, found, home=str(self._home.path))
        finally:
            del self._going[key]
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


def _drawn(found: Evidence, *, home: str) -> dict[str, bytes]:
    command, given = [sys.executable, "-m", __name__], json.dumps(as_dict(found)).encode()
    environment = worker_environment(home=home) | {"PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command, input=given, capture_output=True, timeout=PATIENCE, check=True, env=environment, cwd=home
        )
    except (subprocess.SubprocessError, OSError) as error:
        log.warning("the pictures of a report could not be drawn: %s", error)
        return {}
    return {path: base64.b64decode(text) for path, text in json.loads(done.stdout).items()}


def _main() -> None:
    found = from_dict(Evidence, json.load(sys.stdin))
    told = {path: base64.b64encode(data).decode() for path, data in drawn(found).items()}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    _main()
