"""What was seen of one shard, kept as a file until all shards are there: the shard itself is gone by then."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bot.validate.found import Found
from bot.validate.measure import Measure

if TYPE_CHECKING:
    from bot.validate.modules import Answers

ARRAYS = {"histogram": np.int64, "energies": np.float64}


def write_found(path: Path, found: Found) -> None:
    """Writes down a shard of which nothing is wrong: the names that are proven, and the figures."""
    measures = [_plain(m) for m in sorted(found.measures, key=lambda m: m.name)]
    document = {
        "proven": sorted(found.proven),
        "equal": found.equal,
        "equal_bytes": found.equal_bytes,
        "measures": measures,
    }
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(document), encoding="utf-8")
    beside.replace(path)


def add_found(path: Path, into: Found) -> None:
    """Adds what is written there. Raises OSError, or ValueError for a file that `write_found` did not make."""
    document = json.loads(path.read_text(encoding="utf-8"))
    try:
        into.proven |= {*document["proven"]}
        into.equal += document["equal"]
        into.equal_bytes += document["equal_bytes"]
        into.measures += [_measure(m) for m in document["measures"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not what was seen of a shard") from error


def write_answers(path: Path, found: Answers) -> None:
    """Writes down what the layers of a shard have answered."""
    asked = [asdict(each) for each in found.asked]
    document = {"asked": asked, "broken": found.broken, "left": found.left}
    path.write_text(json.dumps(document), encoding="utf-8")


def add_answers(path: Path, into: Answers) -> None:
    """Adds what is written there. Raises OSError, or ValueError for a file that `write_answers` did not make."""
    from bot.validate.modules import Asked  # noqa: PLC0415 - torch

    document = json.loads(path.read_text(encoding="utf-8"))
    try:
        into.asked += [Asked(**each) for each in document["asked"]]
        into.broken += document["broken"]
        for why, names in document["left"].items():
            into.left.setdefault(why, []).extend(names)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is not what was asked of a shard") from error


def _plain(measure: Measure) -> dict[str, Any]:
    plain = {field.name: getattr(measure, field.name) for field in fields(measure)}
    return plain | {name: plain[name].tolist() for name in ARRAYS}


def _measure(data: dict[str, Any]) -> Measure:
    return Measure(**data | {name: np.array(data[name], dtype=kind) for name, kind in ARRAYS.items()})
