"""Records as JSON documents, and back. Knows dataclasses and their type hints, and no record in particular."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

from bot.secret_text import masked_all

T = TypeVar("T")


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
    hints = typing.get_type_hints(record)
    unknown = set(data) - set(hints)
    if unknown:
        raise TypeError(f"{record.__name__} has no field {min(unknown)!r}")
    return record(**{name: _decode(hints[name], value) for name, value in data.items()})


def _decode(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(hint, types.UnionType):
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
    if typing.get_origin(hint) is tuple:
        return tuple(_decode(typing.get_args(hint)[0], item) for item in value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value)
    return value
