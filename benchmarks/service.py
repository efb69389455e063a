"""`python -m benchmarks.service`: how much the service bears, section by section, against what is required of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.sections import draining, http, inbox, listing
from benchmarks.sections.place import Figure, Place, Section
from tests.jobs import postgres

SECTIONS: dict[str, Section] = {
    "http": http.SECTION,
    "inbox": inbox.SECTION,
    "listing": listing.SECTION,
    "draining": draining.SECTION,
}
SCHEMA = 1
RESULTS = Path(__file__).with_name("results") / "service.json"
PACKAGES = ("SQLAlchemy", "psycopg", "dbos", "fastapi", "uvicorn", "httptools")
console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the sections that are asked for. 0: all that is required is met; 1: something is not."""
    given = _parser().parse_args(arguments)
    measured = {name: _measure(name, given) for name in given.only}
    if not given.quick:
        _save(measured, given.results)
    return 0 if all(figure.met is not False for figures in measured.values() for figure in figures) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of everything, and nothing is written down"
    )
    parser.add_argument("--jobs", type=int, default=1000, help="to be drained (%(default)s; quick: 10)")
    parser.add_argument("--no-postgres", action="store_true", help="SQLite alone")
    parser.add_argument("--dir", type=Path, help="for databases and scratch (default: the temporary folder)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file (%(default)s)")
    return parser


def _measure(name: str, given: argparse.Namespace) -> list[Figure]:
    section = SECTIONS[name]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="service-", dir=given.dir)))
        wanted = not given.no_postgres and postgres.program("initdb")
        server = stack.enter_context(postgres.running(durable=True)) if wanted else None
        figures = section.measure(Place(folder=folder, quick=given.quick, server=server, jobs=given.jobs))
    table = Table(title=section.title, title_justify="left")
    for heading in ("", "measured", "required", ""):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for figure in figures:
        table.add_row(*_cells(figure))
    console.print(table)
    return figures


def _cells(figure: Figure) -> tuple[str, str, str, str]:
    required = f"≤ {figure.most:g}" if figure.most is not None else ""
    required = f"≥ {figure.least:g}" if figure.least is not None else required
    verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[figure.met]
    digits = 0 if figure.unit in {"", "/s"} else 1
    return figure.name, f"{figure.value:,.{digits}f} {figure.unit}", required, verdict


def _save(measured: dict[str, list[Figure]], path: Path) -> None:
    """Sections that were not measured now stay as they were: each says when and where it was."""
    document = json.loads(path.read_text("utf-8")) if path.exists() else {"schema": SCHEMA, "sections": {}}
    document["sections"] |= {name: _document(SECTIONS[name], figures) for name, figures in measured.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"Written: {os.path.relpath(path)}")


def _document(section: Section, figures: list[Figure]) -> dict[str, Any]:
    return {
        "title": section.title,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(Path.cwd()),
        "versions": {"python": sys.version.partition(" ")[0], **{name: version(name) for name in PACKAGES}},
        "figures": [asdict(figure) | {"met": figure.met} for figure in figures],
    }


if __name__ == "__main__":
    sys.exit(main())
