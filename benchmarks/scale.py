"""Merges a model of any size from Hub to Hub in little memory and disk, and measures: `python -m benchmarks.scale`.

The Hub is on this machine (`benchmarks.synthetic`), so the figures are those of the bot and not of a line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.machine import machine, versions
from benchmarks.measure import memory
from benchmarks.places import default_root
from benchmarks.sizes import SCALES
from benchmarks.synthetic import ADAPTER
from tests.jobs import postgres
from tests.jobs.site import Site

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
EVERY = 0.1  # seconds between two looks at memory and disk
STAGES = re.compile(
    r"shards? in ([\d.]+) s: ([\d.]+) s fetching, ([\d.]+) s\s+merging, ([\d.]+) s sending, ([\d.]+) of them"
)
CGROUPS = Path("/sys/fs/cgroup")
# Where a group is made, what limits its memory, and what tells the peak: version 2 of control groups, and version 1.
KINDS = (
    (CGROUPS, "memory.max", "memory.peak"),
    (CGROUPS / "memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
)


def main() -> None:
    """Runs one size, and writes its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--size", choices=SCALES, default="1", help="gigabytes; 141 is Llama-3-70B's own layout"
    )
    parser.add_argument("--scratch-limit", default="12GB")
    parser.add_argument("--memory-limit", type=float, default=4.0, metavar="GB")
    parser.add_argument("--validate", default="tensors", choices=["full", "tensors", "structure", "none"])
    parser.add_argument(
        "--workers",
        type=int,
        choices=[1, 2, 4],
        help="spread it over so many workers of the service on PostgreSQL; their memory is measured, not limited",
    )
    parser.add_argument(
        "--line", type=int, metavar="MB", help="megabytes per second that each connection carries, each way"
    )
    parser.add_argument("--dir", type=Path, default=default_root())
    parser.add_argument("--out", type=Path, help="where the figures go, by default to benchmarks/results")
    given = parser.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=given.dir) as place,
        serving(given.size, Path(place), given.dir, line=given.line) as hub,
    ):
        figures = fanned_out(given, Path(place), hub) if given.workers else measured(given, Path(place), hub)
    out = given.out or results(given.size, given.workers, line=given.line)
    out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


@contextmanager
def serving(size: str, place: Path, root: Path, *, line: int | None = None) -> Iterator[dict[str, str]]:
    """The Hub in a process of its own: its environment for a client. `line`: MB per second of each connection."""
    command = [sys.executable, "-m", "benchmarks.synthetic", "--size", size, "--root", str(place / "hub")]
    command += ["--known", str(root / "scale-digests.json")]
    command += ["--line", str(line * 1_000_000)] if line else []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()


def measured(given: argparse.Namespace, place: Path, hub: dict[str, str]) -> dict[str, Any]:
    """One run of the command line, with what it took."""
    scratch, home = place / "scratch", place / "home"
    scratch.mkdir()
    environment = {**os.environ, **hub, "HF_HOME": str(home), "MERGE_BOT_SCRATCH": str(scratch)}
    command = [sys.executable, "-m", "bot", "run", ADAPTER, "--to", "alice/scaled", "--json"]
    command += ["--validate", given.validate, "--scratch-limit", given.scratch_limit]
    with limited(int(given.memory_limit * 1e9)) as group:
        started = time.monotonic()
        with (place / "log").open("w+") as log:
            process = subprocess.Popen(
                [*joined(group), *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log
            )
            peaks = {"anonymous": 0, "resident": 0, "disk": 0}
            ended = threading.Event()
            watching = threading.Thread(target=watch, args=(process.pid, (scratch, home), peaks, ended))
            watching.start()
            output, _ = process.communicate()
            ended.set()
            watching.join()
            log.seek(0)
            told = " ".join(log.read().split())
        seconds = time.monotonic() - started
        found_peaks = [_number(group / name) for _, _, name in KINDS] if group else []
        cgroup = next((peak for peak in found_peaks if peak), None)
    if process.returncode:
        raise SystemExit(f"{output.decode()}\n{told}")
    document = json.loads(output)
    size = document["plan"]["estimate"]["output_bytes"]
    found = STAGES.search(told)
    wall, fetch, merge, send, overlap = (float(x) for x in found.groups()) if found else (0.0,) * 5
    return {
        "size_bytes": size,
        "shards": len(document["plan"]["shards"]),
        "traffic": document["plan"]["traffic"],
        "seconds": round(seconds, 1),
        "mb_per_second": round(size / seconds / 1e6, 1),
        "stages": {"fetch": fetch, "merge": merge, "send": send, "wall": wall, "overlap": overlap},
        "shard_by_shard": found is not None,
        "peak_anonymous_bytes": peaks["anonymous"],
        "peak_resident_bytes": peaks["resident"],
        "peak_disk_bytes": peaks["disk"],
        "memory_limit_bytes": int(given.memory_limit * 1e9) if group else None,
        "peak_cgroup_bytes": cgroup,
        "scratch_limit": given.scratch_limit,
        "line_mb_per_second": given.line,
        "validation": given.validate,
        "verdict": document["report"]["verdict"] if document["report"] else None,
        "machine": machine(place),
        "versions": versions(),
    }


def results(size: str, workers: int | None, *, line: int | None = None) -> Path:
    """Where the figures of a run lie."""
    parts = ["scale", size, *(["line", line] if line else []), *(["workers", workers] if workers else [])]
    return RESULTS / f"{'-'.join(map(str, parts))}.json"


def fanned_out(given: argparse.Namespace, place: Path, hub: dict[str, str]) -> dict[str, Any]:
    """One job of the service that goes shard by shard over its workers, with what it took from asking to the answer."""
    found: list[dict[str, int]] = []
    with postgres.running() as server:
        site = Site(server.fresh(), hub=SimpleNamespace(environment=lambda _: hub), root=place)
        site.environment |= {"TEST_RUNNER": "spread:local", "TEST_SHARDS": str(given.workers)}
        del site.environment["MERGE_BOT_ISOLATION"], site.environment["OMP_NUM_THREADS"]
        ended = threading.Event()
        watching = []
        try:
            for n in range(given.workers):
                worker = site.start(f"worker-{n}", lease=120)
                found.append({"anonymous": 0, "resident": 0, "disk": 0})
                told = (worker.pid, (place / f"worker-{n}",), found[-1], ended)
                watching.append(threading.Thread(target=watch, args=told))
                watching[-1].start()
            started = time.monotonic()
            id_ = site.ask(ADAPTER, to="alice/scaled", validation=given.validate)
            entry = site.ended(id_, seconds=24 * 3600)
            seconds = time.monotonic() - started
        finally:
            ended.set()
            for thread in watching:
                thread.join()
            site.close()
    outcome = entry.outcome
    if outcome is None or outcome.plan is None or entry.state != "published":
        raise SystemExit(f"{outcome.failure if outcome else entry.state}\n{site.logs()}")
    size = outcome.plan.estimate.output_bytes
    return {
        "workers": given.workers,
        "line_mb_per_second": given.line,
        "size_bytes": size,
        "shards": len(outcome.plan.shards),
        "seconds": round(seconds, 1),
        "mb_per_second": round(size / seconds / 1e6, 1),
        "scaling": _scaling(given, seconds),
        "peak_anonymous_bytes_of_a_worker": max(each["anonymous"] for each in found),
        "peak_disk_bytes_of_a_worker": max(each["disk"] for each in found),
        "validation": given.validate,
        "verdict": outcome.report.verdict if outcome.report else None,
        "machine": machine(place),
        "versions": versions(),
    }


def _scaling(given: argparse.Namespace, seconds: float) -> float | None:
    """How many times as fast as one worker, whose run has to come first; None where there is none."""
    if given.workers == 1:
        return 1.0
    with suppress(OSError):
        alone = json.loads(results(given.size, 1, line=given.line).read_text())
        return round(alone["seconds"] / seconds, 2)
    return None


def watch(pid: int, places: tuple[Path, ...], peaks: dict[str, int], ended: threading.Event) -> None:
    """Looks at memory and disk again and again."""
    while not ended.wait(EVERY):
        anonymous, resident = memory(pid)
        peaks["anonymous"] = max(peaks["anonymous"], anonymous)
        peaks["resident"] = max(peaks["resident"], resident)
        peaks["disk"] = max(peaks["disk"], sum(taken(place) for place in places))


def taken(place: Path) -> int:
    """Bytes of disk that a folder takes: outlines of shards have a size, and take none."""
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            with suppress(OSError):
                total += Path(folder, name).lstat().st_blocks * 512
    return total


@contextmanager
def limited(size: int) -> Iterator[Path | None]:
    """A control group with no more memory than that, page cache included; None where none can be made."""
    group = None
    for root, limit, _ in KINDS:
        if not (root / "cgroup.procs").is_file():  # not this version
            continue
        with suppress(OSError):
            group = root / f"merge-bot-scale-{os.getpid()}"
            group.mkdir()
            (group / limit).write_text(str(size))
            break
    else:
        print("No control group can be made here: memory is measured, not limited.", file=sys.stderr)
        yield None
        return
    try:
        yield group
    finally:
        for _ in range(50):
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def joined(group: Path | None) -> list[str]:
    """What starts a command inside the group."""
    return [] if group is None else ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def _number(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


if __name__ == "__main__":
    main()
