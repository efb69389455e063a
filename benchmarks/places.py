"""Where the benchmark keeps its files: inputs are kept from run to run, outputs for as long as they are looked at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from benchmarks.shapes import Adapter, Shape

FORMAT = "v1"  # part of the inputs' names: raise it when `inputs` writes something else
SPARE = 200_000_000


def default_root() -> Path:
    """The folder for inputs and outputs when none is named."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "adapter-merge-bot-bench"


def base_folder(root: Path, shape: Shape) -> Path:
    """The base model of that shape."""
    return root / f"base-{shape.name}-{FORMAT}"


def adapter_folder(root: Path, shape: Shape, adapter: Adapter) -> Path:
    """The adapter for that base."""
    return root / f"adapter-{shape.name}-{adapter.name}-{FORMAT}"


def lacking(root: Path, shape: Shape, adapter: Adapter) -> str | None:
    """One sentence when the disk has no room for what is still to be written; None when it has."""
    missing = 0 if base_folder(root, shape).exists() else shape.bytes()
    needed = missing + shape.bytes() + adapter.bytes(shape) + SPARE  # one output at a time
    free = shutil.disk_usage(root).free
    if needed <= free:
        return None
    return f"{root} has {free / 1e9:.1f} GB free and the run needs {needed / 1e9:.1f} GB: name another disk with --dir."


@contextmanager
def outputs(root: Path) -> Iterator[Path]:
    """A folder of this run for outputs and logs, removed at the end. Those of killed runs are removed as well."""
    for left in root.glob("run-*"):
        if not _alive(left.name.removeprefix("run-")):
            shutil.rmtree(left, ignore_errors=True)
    folder = root / f"run-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def empty(folder: Path) -> None:
    """Removes everything in the folder, hidden leftovers included."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_all(folder: Path) -> None:
    """Reads every file, so that whoever comes next starts with the base in the page cache."""
    buffer = bytearray(2**22)
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def warm_memory(size: int) -> None:
    """Takes so many bytes of memory, if they are free, and gives them back.

    A virtual machine's host takes what was free for seconds, and gives it back slowly: whoever comes after somebody who
    has freed much would pay for it, and on a machine with memory of its own nobody would.
    """
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemFree"].split()[0]) * 1024
    np.empty(max(0, min(size, free - 2**30)), np.uint8)[::4096] = 1


def clean(root: Path) -> None:
    """Removes the inputs that this benchmark has made in the folder, and the folder if nothing else is in it."""
    for pattern in ("base-*", "adapter-*", ".base-*.partial", ".adapter-*.partial"):
        for folder in root.glob(pattern):
            shutil.rmtree(folder)
    with suppress(OSError):
        root.rmdir()


def _alive(pid: str) -> bool:
    return pid.isdecimal() and Path("/proc", pid).exists()
