"""What goes over the pipe between the bot and its worker: plain values, paths, bytes and our own records, as JSON.

No pickle, and no class by a name that the other side says: `RECORDS` is the whole list.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bot import diagnosis, errors, evidence, job, records, request, shard
from bot.weights import header, layout
from bot.weights.quantised import logical, packed

MODULES = (records, evidence, request, job, shard, diagnosis, header, layout, logical, packed)
RECORDS: dict[str, Any] = {
    name: kind
    for module in MODULES
    for name, kind in vars(module).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}
ERRORS = {kind.__name__: kind for kind in errors.MergeBotError.__subclasses__()}
MARK = "~"


def dumps(value: object) -> bytes:
    """One line. Raises TypeError for what may not cross."""
    return json.dumps(_plain(value)).encode() + b"\n"


def loads(line: bytes) -> Any:
    """The inverse of `dumps`. Raises ValueError, KeyError or TypeError for a line that it did not make."""
    return _value(json.loads(line))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value) and MARK not in value:
        return {key: _plain(item) for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    kind, inner = _marked(value)
    return {MARK: kind, "v": inner}


def _marked(value: Any) -> tuple[str, Any]:
    match value:
        case dict():
            return "dict", [[_plain(k), _plain(v)] for k, v in value.items()]
        case tuple():
            return "tuple", [_plain(item) for item in value]
        case bytes():
            return "bytes", base64.b64encode(value).decode()
        case Path():
            return "path", str(value)
    name = type(value).__name__
    if RECORDS.get(name) is not type(value):
        raise TypeError(f"{name} does not cross to the worker")
    return name, {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}


def _value(data: Any) -> Any:
    if isinstance(data, list):
        return [_value(item) for item in data]
    if not isinstance(data, dict):
        return data
    if MARK not in data:
        return {key: _value(item) for key, item in data.items()}
    kind, inner = data[MARK], data["v"]
    if kind in SIMPLE:
        return SIMPLE[kind](inner)
    return RECORDS[kind](**{name: _value(item) for name, item in inner.items()})


SIMPLE: dict[str, Callable[[Any], Any]] = {
    "dict": lambda pairs: {_value(k): _value(v) for k, v in pairs},
    "tuple": lambda items: tuple(_value(item) for item in items),
    "bytes": base64.b64decode,
    "path": Path,
}


def failure(error: BaseException, *, trace: str) -> dict[str, Any]:
    """An error as the worker reports it."""
    if isinstance(error, errors.MergeBotError):
        said = {"sentence": error.sentence, "advice": error.advice, "code": error.code}
        report = {"report": error.report} if isinstance(error, errors.ValidationError) else {}
        return {"kind": type(error).__name__, **said, **report}
    if isinstance(error, OSError) and error.errno is not None:
        return {
            "errno": error.errno,
            "strerror": error.strerror,
            "filename": str(error.filename or "") or None,
        }
    if isinstance(error, MemoryError):
        sentence, advice = "There is not enough memory for this.", "Use a machine with more memory."
        return {"kind": "MergeError", "sentence": sentence, "advice": advice, "code": "out-of-memory"}
    return {"fault": f"{type(error).__name__}: {error}", "trace": trace}


def raised(said: dict[str, Any]) -> Exception:
    """The same error on our side; a fault of the worker's own becomes an InternalError with its traceback."""
    if "kind" in said:
        return ERRORS[said.pop("kind")](**said)
    if "errno" in said:
        return OSError(said["errno"], said["strerror"], said["filename"])
    error = errors.InternalError(
        f"merge-bot met a fault of its own ({said['fault']}).",
        advice="Run it again with -vv and report what it prints in the issue tracker of adapter-merge-bot.",
        code="internal",
    )
    error.add_note(str(said["trace"]))
    return error
