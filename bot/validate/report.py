"""The report of all checks as a record: the verdict, what was checked, and with which versions."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

from bot import __version__
from bot.evidence import Evidence
from bot.records import Check, Plan, Report, Verdict
from bot.request import Way

FILE = "merge_report.json"
PACKAGES = ("torch", "transformers", "peft", "safetensors")
# Made for the place of publication: written after the checks, and once more for the Hub.
ELSEWHERE = frozenset(
    {
        FILE,
        "merge_plan.json",
        "merge_provenance.json",
        "README.md",
        "merge_report.md",
        "merge_report.html",
        *(f"merge_report/{name}.png" for name in ("delta", "errors", "scores", "spectra", "perplexity")),
    }
)


def make_report(
    plan: Plan,
    *,
    level: Way,
    checks: list[Check] | tuple[Check, ...],
    merged: Path,
    device: str,
    seconds: float,
    known: dict[str, str] | None = None,
    evidence: Evidence | None = None,
) -> Report:
    """The report, with the SHA-256 of every file that was checked; `known` are those that were made before."""
    return Report(
        verdict=_verdict(checks),
        level=level,
        plan_key=plan.key,
        adapter=plan.adapter,
        further=plan.further,
        recipe=plan.recipe,
        base=plan.base,
        checks=tuple(checks),
        files=digests(merged, known=known),
        versions=versions(),
        device=device,
        seconds=round(seconds, 3),
        notes=plan.notes,
        evidence=evidence or Evidence(),
    )


def _verdict(checks: list[Check] | tuple[Check, ...]) -> Verdict:
    """`failed` when any check failed, `skipped` when none was made."""
    found = {check.verdict for check in checks}
    return "failed" if "failed" in found else "passed" if "passed" in found else "skipped"


def digests(folder: Path, *, known: dict[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of every file below the folder by its relative name, but for card, plan, report and its pictures.

    What is `known` is not read again.
    """
    result = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if known and name in known:
            result[name] = known[name]
        elif name not in ELSEWHERE:
            with path.open("rb") as file:
                result[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return result


def versions() -> dict[str, str]:
    """The versions that this report depends on."""
    ours = {"adapter-merge-bot": __version__, "python": platform.python_version()}
    return ours | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
