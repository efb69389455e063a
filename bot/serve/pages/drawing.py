"""A report's pictures, drawn by a process of its own: the server stays small, and strangers' names stay out of it.

As a program: evidence as JSON on standard input, pictures as JSON (path → base64 of the PNG) on standard output.
"""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from bot.evidence import Evidence
from bot.jobs.order import Entry
from bot.publish.pictures import drawn
from bot.serial import as_dict, from_dict
from bot.settings import worker_environment
from bot.temporary import TemporaryFolder

ROOT = Path(__file__).parents[3]
PATIENCE = 60  # seconds
KEPT = 16  # reports
log = logging.getLogger("bot.serve")


class Drawings:
    """The pictures of the reports that were last looked at; one report is drawn at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._home = TemporaryFolder("drawing")  # matplotlib keeps its list of fonts there
        self._kept: OrderedDict[tuple[str, int], dict[str, bytes]] = OrderedDict()

    def of(self, entry: Entry) -> dict[str, bytes]:
        """The pictures as PNG by their paths; none where there is no report, or where drawing fails."""
        report = entry.outcome.report if entry.outcome else None
        if report is None:
            return {}
        key = entry.order.job.key, entry.attempt
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _drawn(report.evidence, home=str(self._home.path))
            self._kept.move_to_end(key)
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
