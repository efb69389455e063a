"""The result of one case: as a table for people and as JSON for everything else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import LIMITS, QUANTITIES, REFERENCES, Figure, Runs, figure, ratio
from benchmarks.machine import machine, versions
from benchmarks.shapes import Adapter, Shape
from benchmarks.subjects import SUBJECTS

SCHEMA = 1


@dataclass(kw_only=True)
class Case:
    """One base with one adapter: what was measured, and what the verification found, by subject."""

    shape: Shape
    adapter: Adapter
    runs: Runs = field(default_factory=dict)
    verified: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.shape.name}-{self.adapter.name}"

    @property
    def title(self) -> str:
        size = f"{self.shape.bytes() / 1e9:.2g} GB"
        return f"{self.shape.title} ({size} bfloat16), {self.adapter.title}"


def show(case: Case, console: Console) -> None:
    """Prints the table, what the verification found, and whether the requirements are met."""
    rounds = max(len(samples) for samples in case.runs.values())
    table = Table(title=f"{case.title}: median of {rounds} (lowest–highest)", title_justify="left")
    for heading in ("", "seconds", "× cp, fsync", "× PEFT", "CPU s", "anon. GB", "resid. GB"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name in case.runs:
        table.add_row(SUBJECTS[name].title, *_cells(case.runs, name))
    console.print(table)
    for name, found in case.verified.items():
        console.print(f"{SUBJECTS[name].title}: {_verification(found)}")
    for text, met in verdicts(case):
        console.print(
            f"[{'green' if met else 'red'}]{'met' if met else 'missed'}[/]: {text}", highlight=False
        )


def _cells(runs: Runs, name: str) -> list[str]:
    ratios = [ratio(runs, name, r) if name != r else None for r in REFERENCES]
    memory = [figure(runs, name, q).median / 1e9 for q in ("anonymous", "resident")]
    return [
        _spread(figure(runs, name, "wall")),
        *(_spread(r) if r else "–" for r in ratios),
        f"{figure(runs, name, 'cpu').median:.2f}",
        *(f"{m:.3f}" if m < 1 else f"{m:.2f}" for m in memory),
    ]


def _spread(found: Figure) -> str:
    spread = f" ({found.low:.2f}–{found.high:.2f})" if found.low < found.high else ""
    return f"{found.median:.2f}{spread}"


def _verification(found: dict[str, Any]) -> str:
    part = found["misrounded"] / max(1, found["elements"])
    return (
        f"{found['changed']} changed tensors against float64: worst {found['worst']:.3f} of the bound,"
        f" {part:.4%} not the nearest number; {found['untouched']} untouched tensors equal the base's"
    )


def verdicts(case: Case) -> list[tuple[str, bool]]:
    """What is required of this case, and whether it is met."""
    asked = [x for x in LIMITS if case.shape.name in x.shapes and case.adapter.name in x.adapters]
    return [v for limit in asked if (v := limit.verdict(case.runs))]


def document(case: Case, *, root: Path) -> dict[str, Any]:
    """The case as JSON: every sample, and the figures made of them."""
    return {
        "schema": SCHEMA,
        "name": case.name,
        "title": case.title,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(root),
        "versions": versions(),
        "bytes": case.shape.bytes(),
        "subjects": {name: _subject(case, name) for name in case.runs},
        "limits": [{"limit": text, "met": met} for text, met in verdicts(case)],
    }


def _subject(case: Case, name: str) -> dict[str, Any]:
    ratios = {r: ratio(case.runs, name, r) for r in REFERENCES}
    return {
        "title": SUBJECTS[name].title,
        **{q: asdict(figure(case.runs, name, q)) for q in QUANTITIES},
        "ratios": {r: asdict(f) for r, f in ratios.items() if f},
        "verified": case.verified.get(name),
        "samples": [asdict(s) for s in case.runs[name]],
    }


def save(document: dict[str, Any], folder: Path) -> Path:
    """Writes `<name>.json` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{document['name']}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
