"""`make bench`: measures cp, the PEFT script and ours in turns, and verifies that what was measured is the merge."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import places, plot, report
from benchmarks.measure import ROOT, FailedError, measure
from benchmarks.shapes import ADAPTERS, SHAPES, Adapter, Shape
from benchmarks.subjects import PEFT, SUBJECTS

SETTLE = 1.5e-9  # seconds a byte, in which disk and host put away what the last one has freed
console = Console(stderr=True, highlight=False)
WIDTH = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases that are asked for. 0: done; 1: something is wrong; 130: Ctrl-C."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(given)
    except FailedError as error:
        console.print(f"failed: {error}", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted: outputs are removed, the base is kept (--clean removes it).")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "--shape", nargs="+", choices=SHAPES, default=["1b"], help="base models (default: 1b)"
    )
    parser.add_argument(
        "--adapter",
        nargs="+",
        choices=ADAPTERS,
        default=["all-linear"],
        help="adapters (default: all-linear)",
    )
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="what to measure")
    parser.add_argument("--repeat", type=_count, default=3, metavar="N", help="rounds (default: 3)")
    parser.add_argument("--quick", action="store_true", help="the smallest base, once: a smoke test")
    parser.add_argument(
        "--dir", type=Path, default=places.default_root(), help="for inputs and outputs (%(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks/results", help="for JSON and picture (%(default)s)"
    )
    parser.add_argument("--clean", action="store_true", help="remove the inputs at the end")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no number of rounds")
    return int(text)


def _run(given: argparse.Namespace) -> int:
    if given.quick:
        given.shape, given.repeat = ["quick"], 1
    root = given.dir.expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with places.outputs(root) as work:
            wrong = [
                case.name
                for shape in given.shape
                for adapter in given.adapter
                for case in [_case(given, root, work, shape=SHAPES[shape], adapter=ADAPTERS[adapter])]
                if not all(v["right"] for v in case.verified.values())
            ]
    finally:
        if given.clean:
            places.clean(root)
    return 1 if wrong else 0


def _case(
    given: argparse.Namespace, root: Path, work: Path, *, shape: Shape, adapter: Adapter
) -> report.Case:
    """One base with one adapter, from its inputs to its picture."""
    lacking = places.lacking(root, shape, adapter)
    if lacking:
        raise FailedError(lacking)
    case = report.Case(
        shape=shape, adapter=adapter, runs={name: [] for name in SUBJECTS if name in given.only}
    )
    console.print(f"[bold]{case.title}[/]")
    _module(work, "inputs", str(root), shape.name, adapter.name)
    for number in range(given.repeat):
        for name in _turn(list(case.runs), number):
            _measure(case, name, root=root, work=work)
    report.show(case, _wide())
    document = report.document(case, root=root)
    path = report.save(document, given.results)
    if importlib.util.find_spec("matplotlib"):
        plot.draw([document], path.with_suffix(".svg"))
    console.print(f"Written: {path}")
    return case


def _wide() -> Console:
    """Standard output, wide enough for the table wherever it goes."""
    found = Console(highlight=False)
    found.width = max(found.width, WIDTH)
    return found


def _turn(names: list[str], number: int) -> list[str]:
    """Every round starts with another one."""
    first = number % len(names)
    return names[first:] + names[:first]


def _measure(case: report.Case, name: str, *, root: Path, work: Path) -> None:
    """One run. The first output of each is verified; none stays."""
    subject = SUBJECTS[name]
    inputs = places.base_folder(root, case.shape), places.adapter_folder(root, case.shape, case.adapter)
    out = work / "out"
    os.sync()  # nobody pays for what another has left to be written
    size = sum(f.stat().st_size for f in inputs[0].iterdir())
    time.sleep(SETTLE * size)
    places.read_all(inputs[0])  # nor for what another has pushed out of the page cache
    places.warm_memory(2 * size)
    sample = measure(subject.command(*inputs, out), log=work / "log")
    case.runs[name].append(sample)
    peak = f"{sample.anonymous / 1e9:.3f} GB anonymous"
    console.print(f"{len(case.runs[name])}  {subject.title:<30}{sample.wall:8.2f} s  {peak}")
    fair = name != PEFT or case.adapter.init is True  # PEFT rounds what PiSSA starts from to bfloat16 first
    if subject.merges and fair and name not in case.verified:
        case.verified[name] = json.loads(_module(work, "verify", *map(str, inputs), str(out)))
        if not case.verified[name]["right"]:
            console.print(f"wrong: {subject.title}: {case.verified[name]}", markup=False, soft_wrap=True)
    places.empty(work)


def _module(work: Path, name: str, *arguments: str) -> str:
    """Runs a module of this folder in a process of its own, and returns what it printed."""
    log = work / f"{name}.log"
    measure([sys.executable, "-m", f"benchmarks.{name}", *arguments], log=log)
    return log.read_text("utf-8").strip().rpartition("\n")[2]


if __name__ == "__main__":
    sys.exit(main())
