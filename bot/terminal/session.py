"""One command's stay at the terminal: its tools, signals, a reader who leaves. Imports nothing slow at the top."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from bot.errors import InputError
from bot.secret_text import masked_all

if TYPE_CHECKING:
    from bot.settings import Settings


@contextmanager
def tools(*, verbosity: int, plain: bool) -> Iterator[dict[str, Any]]:
    """Settings and progress for the stages; while they work, stdout is kept for the result."""
    from bot import settings
    from bot.terminal import progress, quiet

    settings.steer_numpy()
    read = known(verbosity=verbosity)
    with quiet.libraries(verbosity), progress.shown(plain=plain) as shown:
        yield {"settings": read, "progress": shown}


def known(*, verbosity: int) -> Settings:
    """What the environment says. Raises InputError naming a variable that makes no sense."""
    from bot import settings

    try:
        return replace(settings.load(), verbosity=verbosity)
    except ValueError as error:
        advice = "Correct the environment variable, or unset it."
        raise InputError(f"{error}.", advice=advice, code="bad-setting") from error


def document(data: dict[str, Any]) -> str:
    """One strict JSON document: ASCII for every locale, and no NaN, which JSON does not have."""
    finite = masked_all(json.loads(json.dumps(data), parse_constant=str))
    return json.dumps(finite, indent=2)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """`merge-bot … | head`: the work is done, so a reader who left is no error."""
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        # Python flushes both once more at exit, and would complain there.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(nowhere, stream.fileno())


@contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """A polite kill cleans up as Ctrl-C does."""
    before = None
    with suppress(ValueError):  # not in the main thread: whoever is there handles signals
        before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _terminated(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
    raise KeyboardInterrupt
