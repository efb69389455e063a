"""`python -m tests.jobs.run_killed STEP FILE …`: merge-bot with these arguments, killed at each place of a step.

With FILLS in the environment, the disk in that folder is filled up there instead.

A place is written into FILE before the kill, and passed by from then on. `before` and `after` are inside the step as
DBOS sees it, `recorded` is the boundary after it; in between are the step's effects, each when it has happened.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

from bot.cli import main
from bot.doors.thread import Thread
from bot.jobs import engine
from bot.jobs.ledger import Ledger
from bot.jobs.process import Room
from bot.jobs.queues import Queues
from bot.jobs.reporter import Reporter
from tests.jobs.filling import fill

EFFECTS = {
    Ledger: ("begin", "assign", "join", "publish", "close", "end"),
    Queues: ("make", "answer", "cancel"),
    Room: ("do",),
    Thread: ("begin", "end"),
}
running: ContextVar[str] = ContextVar("running", default="")  # the step that this is done for


def kill() -> None:
    """As by somebody else."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def killing(step: str, file: Path, act: Callable[[], None] = kill) -> None:
    """From here on this process is killed at the places of the step."""

    def at(place: str, *, name: str = "") -> None:
        known = file.read_text().splitlines() if file.exists() else []
        if (name or running.get()) == step and place not in known:
            with file.open("a") as handle:
                handle.write(f"{place}\n")
            act()

    def inside(function: Callable[..., Any]) -> Callable[..., Any]:
        return _around(function, lambda: at("before"), lambda _: at("after"), name=function.__name__)

    patient, engine.patient = engine.patient, lambda function: patient(inside(function))
    for way in ("_step", "_preemptible"):
        setattr(engine, way, _recorded(getattr(engine, way), at))
    for owner, names in EFFECTS.items():
        for name in names:
            effect = _around(
                getattr(owner, name), lambda: None, lambda given, n=name, o=owner: at(_place(o, n, given))
            )
            setattr(owner, name, effect)
    # How far it is, is told from time to time: no effect that a test could wait for.
    Reporter._pass_on = _around(Reporter._pass_on, lambda: None, lambda _: None, name="progress")


def _place(owner: type, name: str, given: tuple[Any, ...]) -> str:
    return f"{owner.__name__}.{name}" + (f" {given[1]}" if owner is Room else "")


def _recorded(way: Callable[..., Any], at: Callable[..., None]) -> Callable[..., Any]:
    async def done(function: Any, *given: Any) -> Any:
        found = await way(function, *given)
        at("recorded", name=function.__name__)
        return found

    return done


def _around(
    function: Callable[..., Any], first: Callable[[], None], last: Callable[[Any], None], *, name: str = ""
) -> Callable[..., Any]:
    """The function between two calls; with a name, as that step."""

    @contextlib.contextmanager
    def between(given: Any):
        token = running.set(name or running.get())
        try:
            first()
            yield
            last(given)
        finally:
            running.reset(token)

    @wraps(function)
    async def later(*given: Any, **options: Any) -> Any:
        with between(given):
            return await function(*given, **options)

    @wraps(function)
    def now(*given: Any, **options: Any) -> Any:
        with between(given):
            return function(*given, **options)

    return later if iscoroutinefunction(function) else now


if __name__ == "__main__":
    fills = os.environ.pop("FILLS", "")
    killing(sys.argv[1], Path(sys.argv[2]), partial(fill, Path(fills)) if fills else kill)
    sys.argv = ["merge-bot", *sys.argv[3:]]
    sys.exit(main())
