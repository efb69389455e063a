"""`python -m benchmarks.gpu [--shape 1b]` on a CUDA device: how fast tensors are merged, against a copy of the bytes.

The yardstick is a copy of the base to the device and back, from page-locked memory and in one stream: what any merge on
the device has to move at least. Beside it the plain PEFT script with the model on the device, and ours on the CPU.
Disk comes on top of ours and of PEFT's alike; `--dir /dev/shm/bench` takes it out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import places
from benchmarks.machine import machine, versions
from benchmarks.shapes import ADAPTERS, SHAPES

ROOT = Path(__file__).parents[1]
CHUNK = 16 * 2**20


def main() -> int:
    """Measures and writes results/gpu-<shape>.json. 1: there is no device."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cuda", help="cpu tries the script itself out")
    parser.add_argument("--dir", type=Path, default=places.default_root())
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here.", file=sys.stderr)
        return 1
    document = _document(given)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / f"gpu-{given.shape}.json").write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    print(json.dumps(document, indent=2))
    return 0


def _document(given: argparse.Namespace) -> dict[str, object]:
    root = given.dir.expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    shape, adapter = SHAPES[given.shape], ADAPTERS["all-linear"]
    _run("-m", "benchmarks.inputs", str(root), shape.name, adapter.name)
    inputs = (str(places.base_folder(root, shape)), str(places.adapter_folder(root, shape, adapter)))
    places.read_all(Path(inputs[0]))
    size = shape.bytes()
    seconds: dict[str, list[float]] = {}
    with places.outputs(root) as work:
        out = work / "out"
        for _ in range(given.repeat):
            for name, measure in _subjects(given.device, *inputs, out=out, size=size).items():
                seconds.setdefault(name, []).append(measure())
                places.empty(work)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "shape": shape.name,
        "bytes": size,
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        "seconds": seconds,
        "gb_per_second": {name: round(size / 1e9 / value, 3) for name, value in middle.items()},
        "machine": machine(root),
        "versions": versions(),
    }


def _subjects(
    device: str, base: str, adapter: str, *, out: Path, size: int
) -> dict[str, Callable[[], float]]:
    return {
        "copy there and back": lambda: _copy(size, device=device),
        "merge on the device": lambda: _merge(base, adapter, out=out, device=device),
        "merge on the CPU": lambda: _merge(base, adapter, out=out, device="cpu"),
        "PEFT on the device": lambda: _peft(base, adapter, out=out, device=device),
    }


def _copy(size: int, *, device: str) -> float:
    """Seconds to bring so many bytes to the device and back."""
    there = torch.empty(CHUNK, dtype=torch.uint8, pin_memory=device == "cuda")
    back = torch.empty_like(there, pin_memory=device == "cuda")
    started = time.perf_counter()
    for _ in range(-(-size // CHUNK)):
        back.copy_(there.to(device, non_blocking=True), non_blocking=True)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _merge(base: str, adapter: str, *, out: Path, device: str) -> float:
    """Seconds of the merge stage, reading and writing included, without the start of the process."""
    told = _run(
        *("-m", "bot", "merge", adapter, "--base", base, "--out", str(out)),
        *("--device", device, "--no-validate", "--json"),
    )
    return float(json.loads(told)["merged"]["seconds"])


def _peft(base: str, adapter: str, *, out: Path, device: str) -> float:
    """Seconds that the script takes after its imports."""
    return float(_run("-m", "benchmarks.peft_script", base, adapter, str(out), device).splitlines()[-1])


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True, cwd=ROOT)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
