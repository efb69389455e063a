"""Foreign text for the terminal: it cannot steer it, and it breaks between lines where a reader would break it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from bot.secret_text import masked

_PARTS = re.compile(r"[^./]*[./]+|[^./]+")  # of a name or a path, each with the sign that ends it
_SMALLER = re.compile(r"[^_]*_+|[^_]+")  # of such a part, if it alone is too long
_LEAST = 12  # cells that a part of a word gets before it is cut anywhere


def clean(text: object) -> str:
    """The text on one line, without control characters and tokens: a stranger's config must not steer the terminal."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}"
        for c in masked(str(text))
    )


class Wrapped:
    """Clean text that is broken at spaces; a word too long for a line at its dots and slashes, if that will do."""

    def __init__(self, text: object) -> None:
        self._text = clean(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(wrap(self._text, options.max_width)))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        least = max(
            (cell_len(part) for word in self._text.split() for part in _PARTS.findall(word)), default=0
        )
        return Measurement(max(least, min(_LEAST, cell_len(self._text))), cell_len(self._text)).with_maximum(
            options.max_width
        )


def wrap(text: str, width: int) -> Iterator[str]:
    """The text's lines, each of at most `width` cells."""
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
        elif cell_len(word) <= width:
            yield line
            line = word
        else:
            *full, line = _broken(line, word, width)
            yield from full
    yield line


def _broken(line: str, word: str, width: int) -> Iterator[str]:
    """A line and a word that is too long for any line, as lines; the last one is not full."""
    line += " " if line else ""
    for part in _parts(word, width):
        if cell_len(line + part) <= width:
            line += part
            continue
        if line:
            yield line.rstrip()
        *full, line = chop_cells(part, max(width, 2)) or [""]
        yield from full
    yield line


def _parts(word: str, width: int) -> Iterator[str]:
    for part in _PARTS.findall(word):
        yield from [part] if cell_len(part) <= width else _SMALLER.findall(part)
