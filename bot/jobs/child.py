"""`python -m bot.jobs.child STEP PIPE`: one step of a job in a process of its own, with no more tokens than it needs.

Started by `bot.jobs.process`, never by hand. What there is to do comes over stdin, then a sign of life every second;
without them the process ends itself and everything it has started. Progress and the result go to the pipe.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bot import pipeline, settings
from bot.connect import publisher
from bot.doors.work import work
from bot.errors import HostError, MergeBotError
from bot.isolation import exchange, seal, spare
from bot.isolation.piped import Piped
from bot.job import Outcome, Verb
from bot.jobs.clock import passed
from bot.progress import Progress
from bot.records import Plan, Publication, Report
from bot.request import MergeRequest
from bot.settings import Settings
from bot.shardwise import spread as spreading
from bot.terminal import quiet

Gate = Callable[[], None]
TURN = 1.0  # seconds between two looks at the clock


def plan(request: MergeRequest, *, settings: Settings, progress: Progress, gate: Gate) -> Plan:  # noqa: ARG001
    """What the merge would do."""
    return pipeline.plan(request, settings=settings, progress=progress)


def examine(
    verb: Verb,
    request: MergeRequest,
    *,
    settings: Settings,
    progress: Progress,
    gate: Gate,  # noqa: ARG001 - nothing is published
) -> Outcome:
    """The whole of a job that only looks: `plan` or `doctor`. Raises HostError, which is worth another try."""
    outcome = work(verb, lambda: request, settings=settings, progress=progress)
    said = outcome.failure
    if said is not None and said.exit_code == HostError.exit_code:
        raise HostError(said.sentence, advice=said.advice, code=said.code)
    return outcome


def merge(
    request: MergeRequest,
    *,
    settings: Settings,
    progress: Progress,
    gate: Gate,  # noqa: ARG001 - nothing is published
) -> tuple[Plan, Report | None]:
    """Merges into the request's folder; one that is finished already is as good."""
    made, _, report = pipeline.merge(request, settings=settings, progress=progress)
    return made, report


def publish(
    folder: Path, request: MergeRequest, *, settings: Settings, progress: Progress, gate: Gate
) -> tuple[Publication, bool]:
    """Publishes the folder, and says whether everybody can read what came of it."""
    done = pipeline.publish(folder, request, settings=settings, progress=progress, gate=gate)
    public = False
    with suppress(MergeBotError):  # where the Hub does not say so, it is as good as private
        to = done.destination
        public = to.kind != "folder" and publisher(settings, to).is_private(to) is False
    return done, public


def spread(part: str, *given: Any, settings: Settings, progress: Progress, gate: Gate) -> Any:
    """A part of a merge that goes shard by shard over many workers: `begin`, `shard`, or `conclude` after the gate."""
    more = {"gate": gate} if part == "conclude" else {}
    return spreading.PARTS[part](*given, settings=settings, progress=progress, **more)


STEPS: dict[str, Callable[..., Any]] = {
    "plan": plan,
    "examine": examine,
    "merge": merge,
    "publish": publish,
    "spread": spread,
}


class Lifeline:
    """Stdin: signs of life, and the answer to whether the publication may go on."""

    def __init__(self, *, patience: float, progress: Piped) -> None:
        self._patience, self._rest, self._progress = patience, b"", progress
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()

    def start(self) -> None:
        """Listens in a thread of its own."""
        threading.Thread(target=self._listen, daemon=True).start()

    def answer(self) -> dict[str, Any]:
        """Waits for it."""
        return self._answers.get()

    def _listen(self) -> None:
        heard = passed()
        while True:
            # In short turns: what `select` waits by stands still while the machine sleeps.
            ready = select.select([0], [], [], min(self._patience, TURN))[0]
            data = os.read(0, 1 << 16) if ready else None
            # Also when it comes late: if this process was paused, somebody else may have taken the job over.
            if data == b"" or passed() - heard >= self._patience:
                with suppress(OSError):
                    self._progress.tell(alone=True)
                end()
            if data is None:
                continue
            heard = passed()
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in filter(None, lines):
                self._answers.put(exchange.loads(line))


def end() -> None:
    """Ends this process and its group at once; the sealed worker, in a group of its own, dies with its parent."""
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Does one step."""
    step, pipe = STEPS[sys.argv[1]], int(sys.argv[2])
    given = exchange.loads(_exactly(int.from_bytes(_exactly(8), "big")))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cancelled: clear up as after Ctrl-C
    seal.bound(memory=None, file=given["file"])
    progress = Piped(pipe)
    lifeline = Lifeline(patience=given["patience"], progress=progress)
    lifeline.start()

    def gate() -> None:
        progress.tell(gate=True)
        answer = lifeline.answer()
        if "failed" in answer:
            raise exchange.raised(answer["failed"])

    known = replace(settings.load(), anonymous=given["anonymous"], owned=frozenset(given["owned"]))
    with quiet.libraries(known.verbosity):
        try:
            last = {"done": step(*given["given"], settings=known, progress=progress, gate=gate)}
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - it is raised on the other side
            last = {"failed": exchange.failure(error, trace=traceback.format_exc())}
    spare.dismiss()  # before the end is told, which ends this process
    progress.tell(**last)


def _exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            sys.exit(1)  # nobody is there any more
        data += more
    return data


if __name__ == "__main__":
    main()
