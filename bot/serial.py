"""Records as JSON documents, and back. Knows dataclasses and their type hints, and no record in particular."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from functools import cache
from typing import Any, TypeVar

from bot.secret_text import masked_all

T = TypeVar("T")
PLAIN: dict[Any, Any] = {str: str, bool: bool, int: int, float: int | float}


def to_json(record: object) -> str:
    """The record as an indented JSON document, keys in the order of the record's fields; no token is in it."""
    return json.dumps(masked_all(as_dict(record)), indent=2, ensure_ascii=False)


def as_dict(record: object) -> dict[str, Any]:
    """The record as plain dicts and lists."""
    if not dataclasses.is_dataclass(record) or isinstance(record, type):
        raise TypeError(f"{record!r} is not a record")
    return dataclasses.asdict(record)


def from_dict(record: type[T], data: dict[str, Any]) -> T:
    """The inverse of `as_dict`. Raises TypeError or KeyError when `data` does not fit the record."""
    hints: dict[str, Any] = _hints(record)  # type: ignore[arg-type] # a class can be hashed
    unknown = set(data) - set(hints)
    if unknown:
        raise TypeError(f"{record.__name__} has no field {min(unknown)!r}")
    return record(**{name: _decode(hints[name], value) for name, value in data.items()})


@cache  # of a list of a hundred records, most of the time would go into these
def _hints(record: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _decode(hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
    kind, inside = typing.get_origin(hint), typing.get_args(hint)
    if kind is tuple:
        return tuple(_decode(inside[0], item) for item in _is(value, list | tuple))
    if kind is dict:
        return {key: _decode(inside[1], item) for key, item in _is(value, dict).items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, _is(value, dict))
    if kind is typing.Literal and value not in inside:
        raise TypeError(f"{value!r:.80} is none of {inside}")
    return _is(value, PLAIN[hint]) if hint in PLAIN else value


def _is(value: Any, kind: Any) -> Any:
    """The value, which a file that is not ours may hold something else for."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r:.80} is not what stands there in a record of ours")
    return value
