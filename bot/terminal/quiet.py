"""Keeps stdout for the result: what libraries print, log and draw goes to stderr, or nowhere."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

_LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO}


@contextlib.contextmanager
def libraries(verbosity: int) -> Iterator[None]:
    """While inside, nothing but errors of libraries is seen; their warnings from -v, their log from -vv on."""
    level = _LEVELS[min(verbosity, 2)]
    before = logging.root.manager.disable
    logging.basicConfig(stream=sys.stderr, level=level, format="%(name)s: %(message)s")
    logging.disable(level - 1)
    try:
        with warnings.catch_warnings(), _bars_hidden(), _stdout_is_stderr():
            if not verbosity and not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _bars_hidden() -> Iterator[None]:
    """No tqdm bars: bot.terminal.progress shows ours. TQDM_DISABLE would do, but bot.settings owns the environment."""
    from tqdm.std import tqdm

    bar: Any = tqdm
    draw = bar.__init__
    bar.__init__ = functools.partialmethod(draw, disable=True)
    try:
        yield
    finally:
        bar.__init__ = draw


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Python's stdout and the descriptor under it: compiled code and child processes write to that."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # one of the two was closed by whoever started us
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        yield
