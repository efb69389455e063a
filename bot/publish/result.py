"""The records that lie beside merged weights, the plan and the report: written last, read by later commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from bot.errors import InputError
from bot.evidence import Evidence, Scores
from bot.records import Plan, Report
from bot.serial import from_dict, to_json

PLAN_FILE, REPORT_FILE, CARD_FILE = "merge_plan.json", "merge_report.json", "README.md"
PROVENANCE_FILE = "merge_provenance.json"
TEXT_FILE, PAGE_FILE = "merge_report.md", "merge_report.html"
MOST = {"tensors": 10_000, "layers": 1_000, "row": 1_000, "texts": 100, "text": 1_000}  # shown in a moment
LARGEST = 1e60  # beyond whatever is measured
R = TypeVar("R", Plan, Report)


def read_plan(folder: Path) -> Plan:
    """The plan of a folder that this bot has merged. Raises InputError when it is none."""
    found = _read(folder / PLAN_FILE, Plan)
    if found is None:
        raise InputError(
            f"{folder} holds no {PLAN_FILE}, so this bot did not merge it.",
            advice="Merge into it with `merge-bot merge ADAPTER --out DIR` first.",
            code="not-a-result",
        )
    return found


def read_report(folder: Path) -> Report | None:
    """The report of a merged folder, None when it was not checked. Raises InputError when it is broken."""
    return _read(folder / REPORT_FILE, Report)


def write(path: Path, text: str) -> None:
    """Writes a text file, in UTF-8, with a newline at its end."""
    path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def write_record(path: Path, record: Plan | Report) -> None:
    """Writes a record as JSON."""
    write(path, to_json(record))


def _read(path: Path, kind: type[R]) -> R | None:
    try:
        data: Any = json.loads(path.read_text("utf-8"))
        found = from_dict(kind, data)
        _check(found.evidence if isinstance(found, Report) else Evidence())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as a {kind.__name__.lower()} of this bot.",
            advice="Merge again into another folder.",
            code="not-a-result",
        ) from error
    return found


def _check(found: Evidence) -> None:
    """Whether numbers of a file, which may be anybody's, can be drawn. Raises ValueError when they cannot."""
    scores, errors = found.scores or Scores(base=(), adapter=(), merged=()), found.errors
    lengths = {len(scores.base), len(scores.adapter), len(scores.merged)}
    counts, width = (errors.counts, errors.width) if errors else ((), 1.0)
    energies = [spectrum.energy for spectrum in found.spectra]
    sizes = {
        "tensors": len(found.tensors),
        "layers": len(energies),
        "row": max((*map(len, energies), len(counts), *lengths)),
        "texts": len(found.continuations),
        "text": max(
            (len(text) for c in found.continuations for text in (c.prompt, c.base, c.adapter, c.merged)),
            default=0,
        ),
    }
    if len(lengths) > 1 or any(size > MOST[kind] for kind, size in sizes.items()):
        raise ValueError("more numbers than any report of ours has")
    numbers = [*scores.base, *scores.adapter, *scores.merged, *counts]
    if found.perplexity is not None:
        known = (found.perplexity.base, found.perplexity.adapter, found.perplexity.merged)
        numbers += [value or 0.0 for value in (*known, found.perplexity.tokens)]
    numbers += [share for energy in energies for share in energy]
    for pace in (found.speed.adapter, found.speed.merged) if found.speed else ():
        numbers += [pace.tokens_per_second, pace.first_token_seconds, pace.peak_bytes or 0, pace.tokens]
    for tensor in found.tensors:
        numbers += [tensor.relative_norm or 0.0, tensor.median_ulp, tensor.count]
    if not all(abs(number) < LARGEST for number in numbers) or min((1, *counts)) < 0:
        raise ValueError("numbers that no report of ours has")
    if not 0.001 <= width <= 1 or any(tensor.count < 1 for tensor in found.tensors):
        raise ValueError("numbers that no report of ours has")
