"""JSON as people write it by hand, with a BOM, comments, commas before a bracket: bytes in, content out."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from typing import Any

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# A string, or a comment, or a comma that nothing follows: whatever begins first. One that does not end takes the rest,
# so that no other can begin in it: the time stays that of one look.
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*(?:"|\Z)|(?P<comment>//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z))|(?P<comma>,(?=\s*[\]}]))',
    re.DOTALL,
)
DEEPEST = 64  # levels of nesting; the deepest config seen in the wild has four
OTHER_FILES = (
    ("version https://git-lfs", "it is a Git LFS pointer; `git lfs pull` brings the file itself"),
    ("<<<<<<< ", "it holds the marks of an unresolved git conflict"),
    ("<!doctype html", "it is a web page, saved in place of the file"),
    ("<html", "it is a web page, saved in place of the file"),
)


def loads(data: bytes) -> tuple[Any, tuple[str, ...]]:
    """The content, and in which ways the text was no plain JSON.

    Raises ValueError, with the reason, for no JSON at all.

    NaN and Infinity are read as Python reads them; a key that appears twice has its last value, as for PEFT.
    """
    text, odd = _decode(data)
    if not text.strip():
        raise ValueError("it is empty")
    start = text.lstrip()[:64].lower()
    for mark, what in OTHER_FILES:
        if start.startswith(mark):
            raise ValueError(what)
    content, cleaned = _parse(text)
    if _is_deep(content):
        raise ValueError("it is nested too deeply")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content, odd = content[0], (*odd, "a list around the object")
    return content, (*odd, *cleaned)


def _decode(data: bytes) -> tuple[str, tuple[str, ...]]:
    try:
        if data.startswith(UTF16):
            return data.decode("utf-16"), ("UTF-16 in place of UTF-8",)
        if data.startswith(codecs.BOM_UTF8):
            return data.decode("utf-8-sig"), ("a byte order mark",)
        return data.decode(), ()
    except UnicodeDecodeError as error:
        raise ValueError("it is no UTF-8 text") from error


def _parse(text: str) -> tuple[Any, tuple[str, ...]]:
    try:
        return _json(text)
    except ValueError as error:
        cleaned, odd = _cleaned(text)
        if not odd:
            raise ValueError(str(error)) from error
        content, twice = _json(cleaned)
        return content, (*odd, *twice)


def _json(text: str) -> tuple[Any, tuple[str, ...]]:
    twice: dict[str, None] = {}

    def last(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            again = (name for name, count in counts.items() if count > 1)
            twice.update((f"{name[:60]!r} more than once, of which the last counts", None) for name in again)
        return found

    try:
        return json.loads(text, object_pairs_hook=last), tuple(twice)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _cleaned(text: str) -> tuple[str, tuple[str, ...]]:
    """The text without comments and trailing commas; comments first, since one may stand behind such a comma."""
    odd = []
    for kind, what in (("comment", "comments"), ("comma", "a comma before a closing bracket")):
        shorter = _without(kind, text)
        if shorter != text:
            odd.append(what)
        text = shorter
    return text, tuple(odd)


def _without(kind: str, text: str) -> str:
    return _TOKEN.sub(lambda found: " " if found.lastgroup == kind else found[0], text)


def _is_deep(content: Any) -> bool:
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
        ]
        if not level:
            return False
    return True
