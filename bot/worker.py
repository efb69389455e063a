"""The worker's side: sealed first, then one job after the other, from stdin, with answers to a pipe of its own.

Started by `bot.isolation.room`, never by hand. A job is a function by its name, with its arguments.
"""

from __future__ import annotations

import gc
import sys
import traceback
from importlib import import_module

from bot import settings
from bot.isolation import exchange, seal
from bot.isolation.piped import Piped
from bot.terminal import quiet


def main(pipe: int) -> None:
    """Works until stdin ends, and answers to `pipe`."""
    line = sys.stdin.buffer.readline()
    if not line:  # nobody needs it
        return
    hello = exchange.loads(line)
    settings.live_in(hello["home"], temporary=hello["temporary"])
    seal.bound(memory=None, file=hello["file"])
    isolation = seal.seal(parent=hello["parent"], masks=hello["masks"], walls=hello["walls"])
    progress = Piped(pipe)
    progress.tell(ready=isolation)
    with quiet.libraries(hello["verbosity"]):
        for module in hello["ahead"]:
            import_module(module)
        for line in sys.stdin.buffer:
            _work(line, progress)
            gc.collect()


def _work(line: bytes, progress: Piped) -> None:
    try:
        job = exchange.loads(line)
        module, _, function = job["job"].partition(":")
        call = getattr(import_module(module), function)
        progress.tell(begun=True)
        named = job["named"] | ({"progress": progress} if job["progress"] else {})
        seal.limit(memory=job["memory"], file=job["file"])
        try:
            result = call(*job["given"], **named)
        finally:
            seal.limit(memory=None, file=None)
        progress.tell(done=result)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - it is raised on the other side
        progress.tell(failed=exchange.failure(error, trace=traceback.format_exc()))
