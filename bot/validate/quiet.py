"""Keeps libraries quiet while they load and run models, and turns their exceptions into one sentence."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from transformers.utils import logging as _logging

from bot.records import Check

LONGEST = 240
logging: Any = _logging  # its functions carry no types


@contextlib.contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Nothing reaches stdout, no bar is drawn, no warning is shown: the warnings are collected instead."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def sentence(error: BaseException) -> str:
    """The first line of an exception without its full stop, short enough for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(".:") if lines else "no message"
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    return f"{type(error).__name__}: {text}"


def guarded(name: str, look: Callable[[], tuple[list[str], str]], *, good: str) -> Check:
    """The check of what `look` finds: problems (`good` says that there are none), and a figure.

    Whatever a library raises is a problem.
    """
    figure = ""
    try:
        with quiet():
            problems, figure = look()
    except Exception as error:  # noqa: BLE001  # strangers' files make libraries raise anything
        problems = [sentence(error) + "."]
    detail = " ".join(problems[:5]) or good
    return Check(name=name, verdict="failed" if problems else "passed", figure=figure, detail=detail)
