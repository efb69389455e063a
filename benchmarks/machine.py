"""Where and with what it was measured. No names: neither the host's nor the user's."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from bot import __version__

PACKAGES = ("torch", "transformers", "peft", "safetensors")


def machine(root: Path) -> dict[str, object]:
    """The processor, the memory, and the file system of the folder."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(root),
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Python, the packages that a merge uses, and this one."""
    found = {name: version(name) for name in PACKAGES}
    return {"adapter-merge-bot": __version__, "python": platform.python_version(), **found}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(root: Path) -> str:
    asked = ["df", "--output=fstype", str(root)]
    lines = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.split()
    return lines[-1] if lines else "unknown"
