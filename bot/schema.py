"""JSON Schema (draft 2020-12) of a record, made of its type hints, and what a document has against one.

Knows the words that `schema_of` writes and no other: https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

DRAFT = "https://json-schema.org/draft/2020-12/schema"
WORDS = frozenset({"$schema", "$id", "$defs", "$ref", "title", "description", "type", "const", "enum", "anyOf"}) | {
    "properties", "required", "additionalProperties", "items", "default",
}  # fmt: skip
SIMPLE: dict[Any, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"
}  # fmt: skip
DEEPEST = 100  # a plan of plans has a handful of levels


def schema_of(record: type, *, identifier: str, version: int) -> dict[str, Any]:
    """The schema of a record's JSON form. Fields without a default are required; `schema` must be the version."""
    defs: dict[str, Any] = {}
    _define(record, defs)
    own = defs[record.__name__]
    own["properties"]["schema"] = {"const": version}
    own["required"].insert(0, "schema")
    return {"$schema": DRAFT, "$id": identifier, "$ref": f"#/$defs/{record.__name__}", "$defs": defs}


def _define(record: Any, defs: dict[str, Any]) -> None:
    if record.__name__ in defs:
        return
    defs[record.__name__] = {}  # its place, for a record that holds others of its kind
    hints, fields = typing.get_type_hints(record), dataclasses.fields(record)
    defs[record.__name__] = {
        "description": " ".join((record.__doc__ or "").split()),
        "type": "object",
        "properties": {f.name: _type(hints[f.name], defs) for f in fields},
        "required": [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING],
        "additionalProperties": False,
    }


def _type(hint: Any, defs: dict[str, Any]) -> dict[str, Any]:
    if hint is Any:
        return {}
    if hint in SIMPLE:
        return {"type": SIMPLE[hint]}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        _define(hint, defs)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return _compound(typing.get_origin(hint), typing.get_args(hint), defs)


def _compound(origin: Any, inner: tuple[Any, ...], defs: dict[str, Any]) -> dict[str, Any]:
    if origin is typing.Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _type(inner[0], defs)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(inner[1], defs)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_type(arm, defs) for arm in inner]}
    raise TypeError(f"{origin!r} has no JSON form here")


def faults(document: Any, schema: Mapping[str, Any]) -> list[str]:
    """What the document has against the schema, each with the place; nothing when it fits.

    Raises ValueError for a schema with words that are not known here.
    """
    return list(_faults(document, schema, root=schema, place="", depth=0))


class _Deeper(TypedDict):
    root: Mapping[str, Any]
    depth: int


def _faults(
    value: Any, schema: Mapping[str, Any], *, root: Mapping[str, Any], place: str, depth: int
) -> Iterator[str]:
    if odd := set(schema) - WORDS:
        raise ValueError(f"the word {min(odd)!r} of JSON Schema is not known here")
    where, deeper = place or "the document", _Deeper(root=root, depth=depth + 1)
    if depth > DEEPEST:
        yield f"{where} is nested too deeply"
        return
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        yield from _faults(value, root["$defs"][name], place=place, **deeper)
    if "const" in schema and (type(value), value) != (type(schema["const"]), schema["const"]):
        yield f"{where} is not {schema['const']!r}"
    if "enum" in schema and not (isinstance(value, str) and value in schema["enum"]):
        yield f"{where} is none of {', '.join(map(str, schema['enum']))}"
    if "type" in schema and not _is(value, schema["type"]):
        yield f"{where} is no {schema['type']}"
        return
    arms = schema.get("anyOf", ())
    found = [list(_faults(value, arm, place=place, **deeper)) for arm in arms]
    if found and all(found):
        yield min(found, key=len)[0]
    for number, item in enumerate(value if "items" in schema else ()):
        yield from _faults(item, schema["items"], place=f"{place}[{number}]", **deeper)
    if schema.get("type") == "object":
        yield from _inside(value, schema, place=place, deeper=deeper)


def _inside(
    value: Mapping[str, Any], schema: Mapping[str, Any], *, place: str, deeper: _Deeper
) -> Iterator[str]:
    known, start = schema.get("properties", {}), f"{place}." if place else ""
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{start}{name} is missing"
    more = schema.get("additionalProperties", True)
    for name, item in value.items():
        rest = more if isinstance(more, dict) else {}
        if name not in known and more is False:
            yield f"{start}{name} is not known"
        else:
            yield from _faults(item, known.get(name, rest), place=f"{start}{name}", **deeper)


def _is(value: Any, name: str) -> bool:
    """JSON knows no difference between 1 and 1.0, and a boolean is no number."""
    kinds: dict[str, Any] = {
        "string": str, "boolean": bool, "integer": int, "number": (int, float), "null": type(None), "array": list,
        "object": dict,
    }  # fmt: skip
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, kinds[name]) or (
        name == "integer" and isinstance(value, float) and value.is_integer()
    )
