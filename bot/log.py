"""The service's log: a line of text or one JSON object a line on stderr, with what it is about, and no token in it."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from bot.secret_text import masked

Form = Literal["text", "json"]
NOTHING: Mapping[str, str] = MappingProxyType({})
ABOUT: ContextVar[Mapping[str, str]] = ContextVar("about", default=NOTHING)
OWN = {"uvicorn", "dbos"}  # they may bring handlers of their own


@contextmanager
def about(**what: str) -> Iterator[None]:
    """What is logged inside carries these too: `job`, `delivery`, `request`. Follows into tasks and `to_thread`."""
    token = ABOUT.set({**ABOUT.get(), **what})
    try:
        yield
    finally:
        ABOUT.reset(token)


def start(form: Form, *, level: int = logging.INFO) -> None:
    """From here on everything that is logged in this process goes to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(AsJson() if form == "json" else AsText())
    logging.disable(logging.NOTSET)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(capture=True)
    for name in OWN:
        logger = logging.getLogger(name)
        logger.handlers[:] = [
            logging.NullHandler()
        ]  # DBOS gives itself one, in a form of its own, where it has none
        logger.propagate = True
    for name in ("uvicorn", "httpx2", "dbos"):
        logging.getLogger(name).setLevel(logging.WARNING)  # our own lines say more
    sys.unraisablehook, threading.excepthook = _in_the_end, _in_a_thread


def _in_the_end(error: sys.UnraisableHookArgs) -> None:
    """What goes wrong while an object is cleared away, which Python would print between the lines."""
    trace = (error.exc_type, error.exc_value or error.exc_type(), error.exc_traceback)
    logging.getLogger("python").error("%s %r", error.err_msg or "Ignored in", error.object, exc_info=trace)


def _in_a_thread(error: threading.ExceptHookArgs) -> None:
    """And what ends a thread."""
    if error.exc_type is not SystemExit:
        trace = (error.exc_type, error.exc_value or error.exc_type(), error.exc_traceback)
        name = error.thread.name if error.thread else "a thread"
        logging.getLogger("python").error("%s ended", name, exc_info=trace)


class AsJson(logging.Formatter):
    """`{"time", "level", "logger", "message", …}`: one strict JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **ABOUT.get(),
            **getattr(record, "facts", NOTHING),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return masked(json.dumps(line, default=str))


class AsText(logging.Formatter):
    """`time LEVEL message (key=value …)`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; more than one where there is a trace."""
        facts = {**ABOUT.get(), **getattr(record, "facts", NOTHING)}
        told = " ".join(f"{name}={value}" for name, value in facts.items())
        # What strangers sent must not look like a line of its own.
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{_time(record)} {record.levelname:<7} {message}{f' ({told})' if told else ''}"
        return masked(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
