"""What is measured: a command each, from a base, an adapter and the name of an output folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Command = Callable[[Path, Path, Path], list[str]]
PYTHON = (sys.executable, "-m", "benchmarks.without")
COPY = "cp"
DURABLE = "cp-fsync"
PEFT = "peft"
MERGE = "merge"
LOOKED = "merge-structure"
CHECKED = "merge-checked"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One contestant. `merges`: its output is a merged model, which is verified."""

    name: str
    title: str
    command: Command
    merges: bool = True


def _copy(base: Path, adapter: Path, out: Path) -> list[str]:
    return ["cp", "-r", str(base), str(out)]


def _durable_copy(base: Path, adapter: Path, out: Path) -> list[str]:
    """`sync FILE…` is fsync of each file."""
    return ["sh", "-c", 'cp -r "$1" "$2" && sync "$2"/* "$2"', "sh", str(base), str(out)]


def _peft(base: Path, adapter: Path, out: Path) -> list[str]:
    return [*PYTHON, "benchmarks.peft_script", str(base), str(adapter), str(out)]


def _merge(*flags: str) -> Command:
    def command(base: Path, adapter: Path, out: Path) -> list[str]:
        return [
            *PYTHON,
            "bot",
            "merge",
            str(adapter),
            "--base",
            str(base),
            "--out",
            str(out),
            *flags,
        ]

    return command


SUBJECTS = {
    s.name: s
    for s in (
        Subject(name=COPY, title="cp -r", command=_copy, merges=False),
        Subject(name=DURABLE, title="cp -r, fsync", command=_durable_copy, merges=False),
        Subject(name=PEFT, title="PEFT script", command=_peft),
        Subject(name=MERGE, title="merge-bot --no-validate", command=_merge("--no-validate")),
        Subject(
            name=LOOKED, title="merge-bot --validate structure", command=_merge("--validate", "structure")
        ),
        Subject(name=CHECKED, title="merge-bot --validate tensors", command=_merge("--validate", "tensors")),
    )
}
