"""A diagnosis as a person reads it: the verdict, a table of findings with reasons, the bases in question."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.console import ConsoleRenderable, Group
from rich.table import Table
from rich.text import Text

from bot.diagnosis import Candidate, Diagnosis, Finding
from bot.terminal.text import Wrapped, clean
from bot.terminal.view import line, publication
from bot.wording import counted

_VERDICTS = {
    "fine": ("✓", "green", "fine: PEFT loads this config as it was meant"),
    "repairable": ("✓", "yellow", "repairable"),
    "refused": ("✗", "bold red", "refused: this cannot be repaired without you"),
}
_KINDS = {"repair": ("~", "yellow"), "refusal": ("✗", "bold red")}
LONGEST = 100


def diagnosis(record: Diagnosis) -> list[ConsoleRenderable]:
    """The parts, for `view.show`."""
    parts: list[ConsoleRenderable] = [_verdict(record)]
    shown = [f for f in record.findings if f.kind != "inert"]
    if shown:
        parts.append(_findings(shown))
    inert = [f.key for f in record.findings if f.kind == "inert"]
    if inert:
        parts.append(line(f"Inert, and left as they are: {', '.join(inert)}."))
    if record.base:
        parts.append(_bases(record.base))
    parts += [line(f"Note: {note}.") for note in record.notes]
    return [*parts, *_outcome(record)]


def _verdict(record: Diagnosis) -> ConsoleRenderable:
    mark, style, words = _VERDICTS[record.verdict]
    count = sum(f.kind == "repair" for f in record.findings)
    words += f": {counted(count, 'repair')}" if record.verdict == "repairable" else ""
    return Group(Text(clean(record.adapter), style="bold"), Text(f"{mark} {words}", style=style))


def _findings(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("", "Rule", "Key", "Change", "Why"):
        table.add_column(heading, no_wrap=heading in ("", "Rule"))
    for finding in findings:
        mark, style = _KINDS[finding.kind]
        table.add_row(
            Text(mark, style=style),
            Text(clean(finding.rule)),
            Wrapped(finding.key or "(the file)"),
            Wrapped(_change(finding)),
            Wrapped(f"{finding.reason} {finding.advice}" if finding.advice else finding.reason),
        )
    return table


def _change(finding: Finding) -> str:
    if finding.kind == "refusal":
        return _value(finding.before) if finding.before is not None else "–"
    if not finding.key:
        return f"{finding.before} → plain JSON"
    empty = "null" if finding.after is None else "not set"
    before = empty if finding.before is None else _value(finding.before)
    return f"{before} → {'removed' if finding.after is None else _value(finding.after)}"


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _bases(base: tuple[Candidate, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("Base", "Named by", "Found"):
        table.add_column(heading)
    for candidate in base:
        name = f"{candidate.name}@{candidate.revision}" if candidate.revision else candidate.name
        table.add_row(Wrapped(name), Wrapped(candidate.named_by), Wrapped(_found(candidate)))
    return table


def _found(candidate: Candidate) -> str:
    words = [f"commit {candidate.commit[:12]}"] if candidate.commit else []
    if candidate.fits is not None:
        words.append("its shapes fit" if candidate.fits else "does not fit")
    return "; ".join([*words, *([candidate.note] if candidate.note else [])])


def _outcome(record: Diagnosis) -> list[ConsoleRenderable]:
    if record.written:
        return [
            line(f"Written: {record.written}; the original is beside it as adapter_config.original.json.")
        ]
    if record.publication:
        return [publication(record.publication)]
    return [line("--fix writes this down.")] if record.repaired is not None else []
