"""One command's stay at the terminal: its tools, signals, a reader who leaves. Imports nothing slow at the top."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from bot.errors import InputError, MergeError
from bot.secret_text import masked_all

if TYPE_CHECKING:
    from bot.settings import Settings

LOST = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # what a stdout in a file can say


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


def open_streams() -> None:
    """What a shell has closed (`>&-`) leads nowhere, here and in the processes that are started from here.

    Else the next file that is opened would be taken for it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            lowest = os.open(os.devnull, os.O_RDWR)  # that is free: `number`
            os.set_inheritable(lowest, True)  # noqa: FBT003 - it takes no keyword
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """`merge-bot … | head`: the work is done, so a reader who left is no error.

    Raises MergeError (`output-lost`) where the answer could not be written, as on a full disk.
    """
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        _to_nowhere()
    except OSError as error:
        if error.errno not in LOST:
            raise
        _to_nowhere()
        raise MergeError(
            f"The answer cannot be written to stdout: {(error.strerror or str(error)).lower()}.",
            advice="What was asked for is done; send the output elsewhere, and run the same command again.",
            code="output-lost",
        ) from error


def _to_nowhere() -> None:
    """Python flushes both once more at exit, and would complain there."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
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
