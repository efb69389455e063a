"""What the configuration names by a file: secrets are read here, and folders are found from where it lies."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr

from bot.config.mistakes import Mistake, named
from bot.config.mistakes import Path as Place
from bot.config.models import Config

T = TypeVar("T", bound=BaseModel)
SUFFIX = "_file"
LARGEST = 65_536  # bytes


def with_files(config: Config, path: Path | None) -> tuple[Config, list[Mistake], tuple[str, ...]]:
    """The configuration with its secrets and whole paths; mistakes; and remarks, of files that others can read."""
    reading = _Reading((path.parent if path else Path()).absolute())
    done = reading.table(config, ())
    if path is not None and _others_read(path) and any(_inline(config)):
        reading.remarks.append(
            f"{path} holds secrets and can be read by others: run chmod 600 {path}, or put them in files."
        )
    return done, reading.mistakes, tuple(reading.remarks)


class _Reading:
    """One walk through the tables."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.mistakes: list[Mistake] = []
        self.remarks: list[str] = []

    def table(self, table: T, place: Place) -> T:
        changes: dict[str, Any] = {}
        for name in type(table).model_fields:
            value = getattr(table, name)
            if isinstance(value, BaseModel):
                changes[name] = self.table(value, (*place, name))
            elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
                changes[name] = tuple(self.table(v, (*place, name, n)) for n, v in enumerate(value))
            elif isinstance(value, Path):
                changes |= self._path(table, name, self._folder / value.expanduser(), (*place, name))
        return table.model_copy(update=changes)

    def _path(self, table: BaseModel, name: str, file: Path, place: Place) -> dict[str, Any]:
        key = name.removesuffix(SUFFIX)
        if key == name:
            return {name: file}
        if getattr(table, key) is not None:
            self._wrong(place, f"`{key}` is given as well", "Leave one of the two out.")
            return {}
        try:
            text = self._text(file)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            self._wrong(
                place, f"{file} cannot be read: {why}", "Name a file with the secret and nothing else."
            )
            return {}
        return {key: SecretStr(text), name: file}

    def _text(self, file: Path) -> str:
        with file.open("rb") as stream:
            data = stream.read(LARGEST + 1)
        try:
            text = data.decode().strip()
        except UnicodeDecodeError:
            raise ValueError("it is no text") from None
        if not text or len(data) > LARGEST:
            raise ValueError("it is empty" if not text else "it is too large for a secret")
        if _others_read(file):
            self.remarks.append(f"{file} holds a secret and can be read by others: run chmod 600 {file}.")
        return text

    def _wrong(self, place: Place, what: str, advice: str) -> None:
        key = named(place)
        self.mistakes.append(Mistake(key=key, path=place, sentence=f"`{key}`: {what}.", advice=advice))


def _inline(table: BaseModel) -> Iterator[SecretStr]:
    for name in type(table).model_fields:
        value = getattr(table, name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, BaseModel):
                yield from _inline(one)
            elif isinstance(one, SecretStr):
                yield one


def _others_read(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
