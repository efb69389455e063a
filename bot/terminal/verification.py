"""What `verify` found, as a person reads it: the files that are not as they should be, and what was compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from bot.provenance import FileState, Verification
from bot.terminal.text import Wrapped, clean
from bot.terminal.view import line
from bot.wording import counted

_SHOWN = {
    "differs": "differs",
    "missing": "is missing",
    "additional": "is additional",
    "edited": "was edited",
}
MOST = 30
DIGITS = 16  # of a digest: enough to compare by eye


def verification(record: Verification) -> list[ConsoleRenderable]:
    """The parts, for `view.show`."""
    made = ", ".join(str(adapter) for adapter in record.adapters)
    parts: list[ConsoleRenderable] = [
        Group(Text(clean(record.place), style="bold"), line(f"said to be {made} merged into {record.base}"))
    ]
    odd = [file for file in record.files if file.state in _SHOWN]
    went_in = [file for file in record.inputs if file.state in _SHOWN]
    again = [file for file in record.rebuilt or () if file.state in _SHOWN]
    parts += [_table(odd, "said", "there")] if odd else []
    parts += [_table(went_in, "said", "at its commit")] if went_in else []
    parts += [_table(again, "merged again", "there")] if again else []
    parts += [line(f"{sentence}.") for sentence in record.contradictions]
    parts += [line(f"Note: {note}.") for note in record.notes]
    return [*parts, _verdict(record)]


def _table(files: Sequence[FileState], wanted: str, there: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("File", "", f"SHA-256 {wanted}", f"SHA-256 {there}"):
        table.add_column(heading)
    for file in files[:MOST]:
        cells = (file.expected[:DIGITS] or "none", file.found[:DIGITS] or "-")
        table.add_row(Wrapped(file.name), _SHOWN[file.state], *(Text(clean(cell)) for cell in cells))
    if len(files) > MOST:
        table.add_row(f"and {len(files) - MOST} more")
    return table


def _verdict(record: Verification) -> ConsoleRenderable:
    good = record.verdict == "passed"
    count = Counter(file.state for file in record.files)
    told = f"{count['same']} of {counted(sum(count.values()), 'file')} as published"
    told += f", {count['kept']} of the adapter's own repository" if count["kept"] else ""
    known = [file for file in record.inputs if file.state != "unchecked"]
    same = sum(file.state == "same" for file in known)
    told += f"; of what went in, {same} of {counted(len(known), 'file')} as on the Hub" if known else ""
    left = len(record.inputs) - len(known)
    told += f", {counted(left, 'file')} out of reach" if left else ""
    if record.rebuilt is not None:
        same = sum(file.state == "same" for file in record.rebuilt)
        told += f"; merged again, {same} of {counted(len(record.rebuilt), 'file')} the same byte by byte"
    mark, style = ("✓", "green") if good else ("✗", "bold red")
    return Text(f"{mark} Verification {record.verdict}: {told}", style=style)
