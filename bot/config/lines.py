"""On which line of a TOML file a key stands, which Python's parser does not tell."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bot.errors import InputError

LARGEST = 2**20  # bytes
PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")
EXAMPLE = "`merge-bot config example` prints a file that is right."


class Lines:
    """The text of a file that is TOML, or none at all."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines(keepends=True)

    @classmethod
    def of(cls, path: Path | None) -> Lines:
        """Raises InputError for a file that cannot be read, and for the line that is no TOML."""
        text = _read(path) if path is not None else ""
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _no_toml(path, str(error)) from None
        except RecursionError:
            raise _no_toml(path, "lists in lists without end") from None
        return cls(text)

    def of_key(self, path: Sequence[str | int]) -> int | None:
        """The line, from 1, on which the key is set; of a table, its head; None when it is not in the file."""
        for start, document in self._beginnings():
            if _has(document, path):
                return start
        return None

    def _beginnings(self) -> Iterator[tuple[int, Any]]:
        """All that is TOML by itself when the file is cut off behind a line, and where its last statement begins."""
        start: int | None = None
        for number, line in enumerate(self._lines, 1):
            if start is None and (not line.strip() or line.lstrip().startswith("#")):
                continue
            start = number if start is None else start
            try:
                document = tomllib.loads("".join(self._lines[:number]))
            except tomllib.TOMLDecodeError:
                continue  # within a list or a text of several lines
            yield start, document
            start = None


def _has(document: Any, path: Sequence[Any]) -> bool:
    for step in path:
        if not isinstance(document, dict if isinstance(step, str) else list):
            return False
        if step not in (document if isinstance(step, str) else range(len(document))):
            return False
        document = document[step]
    return True


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "that is no name of a file"
        raise InputError(
            f"{path} cannot be read: {why}.", advice=EXAMPLE, code="config-unreadable"
        ) from error
    if len(data) > LARGEST:
        raise InputError(f"{path} is larger than a MiB.", advice=EXAMPLE, code="config-unreadable")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: that is no text in UTF-8.", advice=EXAMPLE, code="config-unreadable"
        ) from None


def _no_toml(path: Path | None, message: str) -> InputError:
    """The parser's words without its place: they name no value, so there is no secret in them."""
    found = PLACE.search(message)
    line = f", line {found[1]}" if found and found[1] else ""
    said = PLACE.sub("", message)
    return InputError(f"{path}{line} is no TOML: {said}.", advice=EXAMPLE, code="config-no-toml")
