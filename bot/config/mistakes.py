"""What pydantic has against a configuration, in sentences: the key, what is wrong, and the nearest right one."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Path = tuple[str | int, ...]  # of a key: tables, and numbers in lists of tables from 0


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake: `key` as `watch[2].runner`, counted from 1, and `path` as pydantic has it; `line` from 1."""

    key: str
    path: Path
    sentence: str
    advice: str
    line: int | None = None
    variable: str = ""

    @property
    def place(self) -> str:
        """Where it stands: `line 4`, or a variable of the environment."""
        return self.variable or (f"line {self.line}" if self.line else "")


def found_in(error: ValidationError, model: type[BaseModel]) -> list[Mistake]:
    """One mistake for each key that pydantic complains about, in its order. No secret is in their texts."""
    found: dict[Path, Mistake] = {}
    for one in error.errors(include_url=False):
        made = _mistake(one, model)
        found.setdefault(made.path, made)
    return list(found.values())


def named(path: Sequence[str | int]) -> str:
    """`watch[2].runner` for `("watch", 1, "runner")`."""
    parts = (f"[{step + 1}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(parts).lstrip(".")


def _mistake(error: Any, model: type[BaseModel]) -> Mistake:
    path: Path = tuple(error["loc"])
    kind, context, key = error["type"], error.get("ctx", {}), named(path)
    if kind == "extra_forbidden":
        return unknown(path, model)
    sentence, advice = f"`{key}` {_said(error['msg'])}.", "Change it, or leave it out: it has a default."
    if kind == "value_error":
        sentence, advice = f"`{key}`: {str(context['error']).rstrip('.')}.", "docs/config.md has an example."
    elif kind == "literal_error":
        known = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        advice = _near(str(error["input"]), known) or f"It takes {', '.join(known)}."
    elif kind == "missing":
        sentence, advice = f"`{key}` is missing.", "Add it."
    return Mistake(key=key, path=path, sentence=sentence, advice=advice)


def unknown(path: Path, model: type[BaseModel]) -> Mistake:
    """There is no such key; the advice is the nearest one."""
    table, name = path[:-1], str(path[-1])
    known = list(_model_at(model, table).model_fields)
    advice = _near(name, known) or _elsewhere(name, model) or f"It takes {', '.join(known)}."
    return Mistake(key=named(path), path=path, sentence=f"There is no key `{named(path)}`.", advice=advice)


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean `{near[0]}`?" if near else ""


def _elsewhere(name: str, model: type[BaseModel]) -> str:
    tables = [t for t in model.model_fields if name in _model_at(model, (t,)).model_fields and t != name]
    return f"It belongs to [{tables[0]}]." if tables else ""


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    """The record of a table; where there is none, the last one above it."""
    for step in path:
        field = model.model_fields.get(step) if isinstance(step, str) else None
        model = (field and table_of(field)) or model
    return model


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """The record of a key that is a table, or a list of them."""
    inner = [field.annotation, *typing.get_args(field.annotation)]
    return next((t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)), None)


def _said(message: str) -> str:
    """Pydantic's words as the end of a sentence."""
    return message.removeprefix("Input ").split(", unable")[0].rstrip(".")
