"""Figures and foreign text as a reader wants them."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB")


def clean(text: object) -> str:
    """The text on one line, without control characters: a stranger's config must not steer the terminal."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )


def size(count: float) -> str:
    """`2.4 GB`: decimal units, as the Hub shows them."""
    value, unit = _scaled(count)
    return f"{value} {unit}"


def span(done: float, total: float) -> str:
    """`1.1/2.4 GB` when both have one unit, else `900 MB/2.4 GB`."""
    (left, left_unit), (right, right_unit) = _scaled(done), _scaled(total)
    return f"{left}/{right} {right_unit}" if left_unit == right_unit else f"{size(done)}/{size(total)}"


def duration(seconds: float) -> str:
    """`0.4 s`, `6 s`, `2 min 5 s`, `1 h 4 min`."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def counted(count: int, noun: str) -> str:
    """`1 tensor`, `1,204 tensors`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _scaled(count: float) -> tuple[str, str]:
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    digits = 0 if unit == "B" or value >= 99.95 else 1
    return f"{value:.{digits}f}", unit
