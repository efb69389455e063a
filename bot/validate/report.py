"""The report of all checks: as a record, as a file beside the weights, and as text for people."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path

from bot.records import Check, Plan, Report, Verdict, Way, to_json

FILE = "merge_report.json"
PACKAGES = ("torch", "transformers", "peft", "safetensors")
# Made for the place of publication: written after the checks, and once more for the Hub.
ELSEWHERE = frozenset({FILE, "merge_plan.json", "README.md"})
BOT = "adapter-merge-bot"
MARKS = {"passed": "✓ passed", "failed": "✗ failed", "skipped": "– skipped"}


def make_report(
    plan: Plan,
    *,
    level: Way,
    checks: list[Check] | tuple[Check, ...],
    merged: Path,
    device: str,
    seconds: float,
) -> Report:
    """The report, with the SHA-256 of every file that was checked."""
    return Report(
        verdict=_verdict(checks),
        level=level,
        plan_key=plan.key,
        adapter=plan.adapter,
        base=plan.base,
        checks=tuple(checks),
        files=digests(merged),
        versions=versions(),
        device=device,
        seconds=round(seconds, 3),
    )


def _verdict(checks: list[Check] | tuple[Check, ...]) -> Verdict:
    """`failed` when any check failed, `skipped` when none was made."""
    found = {check.verdict for check in checks}
    return "failed" if "failed" in found else "passed" if "passed" in found else "skipped"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below the folder by its relative name, but for the card, the plan and the report."""
    result = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in ELSEWHERE:
            with path.open("rb") as file:
                result[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return result


def versions() -> dict[str, str]:
    """The versions that this report depends on."""
    return {"bot": _version(BOT), "python": platform.python_version()} | {
        name: _version(name) for name in PACKAGES
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def summary(report: Report) -> str:
    """A table in markdown that reads well as plain text, too."""
    counts = {v: sum(c.verdict == v for c in report.checks) for v in MARKS}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "none made"
    lines = [
        f"**{MARKS[report.verdict]}**: merged = {report.base} + {report.adapter}",
        "",
        f"Level {report.level}, checks: {told}; {report.seconds:.1f} s on {report.device}.",
        "",
        "| Check | Verdict | Figure | Meaning |",
        "|---|---|---|---|",
        *(
            f"| {c.name} | {MARKS[c.verdict]} | {_cell(c.figure)} | {_cell(c.detail)} |"
            for c in report.checks
        ),
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text for a table's cell: names come from strangers' files."""
    flat = " ".join(text.split())
    for character in "\\`|<[":
        flat = flat.replace(character, f"\\{character}")
    return flat


def write(report: Report, merged: Path) -> Path:
    """Writes merge_report.json: complete or not at all."""
    path, scratch = merged / FILE, merged / f".{FILE}.{os.getpid()}"
    try:
        with scratch.open("x", encoding="utf-8") as file:
            file.write(to_json(report) + "\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path
