"""Strangers' text inside our Markdown: no HTML, no pings, no links, no marker, no path of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from bot.records import Pinned, Plan

_SPECIAL = re.compile(r"([\\`*_\[\]~$])")  # what acts inside a line; ours is never the first word of one
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Both hosts look for mentions, references and bare links in the rendered text, where an entity is the character
# again; only something between the characters stops them.
_LIVE = re.compile(r"@(?=\w)|#(?=\d)|:(?=//)|\bwww(?=\.)|\bmailto(?=:)", re.IGNORECASE)
_APART = "\u200b"
_ABSOLUTE = re.compile(r"(?<![\w:/.~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"`|<>]+[/\\])+[^\s/\\'\"`|<>]*")
LONGEST = 300


def plain(text: object) -> str:
    """One line of text, as text: every character of it is shown, none of it acts."""
    shown = "".join(_HTML.get(character, character) for character in _SPECIAL.sub(r"\\\1", _line(text)))
    return _LIVE.sub(lambda found: _apart(found[0]), shown)


def code(text: object) -> str:
    """The same as inline code, which shows everything as it is but a backtick and a comment's beginning."""
    shown = _line(text).replace("`", "'").replace("<!", f"<{_APART}!")
    return f"`{_LIVE.sub(lambda found: _apart(found[0]), shown) or ' '}`"


def row(*cells: str) -> str:
    """A line of a table; the cells are Markdown already."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def without_paths(text: str, plan: Plan) -> str:
    """The text without the folders of this machine: a card is read by others, and folders hold people's names."""
    for place in plan.sources:
        if place.kind == "folder":
            text = text.replace(place.location, "(a local folder)")
    return no_paths(text)


def no_paths(text: str) -> str:
    """The text without anything that looks like a path of this machine."""
    return _ABSOLUTE.sub("(a local path)", text)


def folder_name(place: Pinned) -> str:
    """The last part of a local folder's path: enough to tell two apart, and no more."""
    return PurePath(place.location).name or "folder"


def joined(lines: Iterable[str]) -> str:
    """Lines to a text that ends with one newline."""
    return "\n".join(lines).rstrip("\n") + "\n"


def _line(text: object) -> str:
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(printable.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _apart(live: str) -> str:
    return live[0] + _APART + live[1:]
