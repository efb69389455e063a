"""Fails when a tier of tests that should have run did not: skipped without a good reason, or not there at all."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

# Why a test may be skipped where CI runs: the runners have no GPU, a disk that is really full takes a mount, which
# needs root, and in a container a capability besides, a network namespace takes a kernel that grants one, and the
# collection of real configs is not part of the repository.
ALLOWED = (
    "needs a GPU",
    "only root may mount",
    "mounting is not allowed here",
    "this kernel grants no namespace",
    "the real files are not here",
)
TESTS = Path(__file__).parents[1] / "tests"


def main(reports: list[str]) -> int:
    """Reads pytest's XML reports, prints every complaint, and returns the exit code."""
    cases = [case for report in reports for case in ET.parse(report).iter("testcase")]
    complaints = [*_skipped(cases), *_absent(cases)]
    print(*(complaints or ["Every tier ran."]), sep="\n")
    return 1 if complaints else 0


def _skipped(cases: list[ET.Element]) -> list[str]:
    found = []
    for case in cases:
        skip = case.find("skipped")
        reason = "" if skip is None else skip.get("message", "")
        if skip is not None and not any(allowed in reason for allowed in ALLOWED):
            found.append(f"skipped: {case.get('classname')}::{case.get('name')}: {reason or 'no reason'}")
    return found


def _absent(cases: list[ET.Element]) -> list[str]:
    ran = {str(case.get("classname")) for case in cases if case.find("skipped") is None}
    files = sorted(TESTS.rglob("test_*.py"))
    modules = {".".join(path.relative_to(TESTS.parent).with_suffix("").parts): path for path in files}
    return [
        f"nothing ran in {path.relative_to(TESTS.parent)}"
        for module, path in modules.items()
        if not any(name == module or name.startswith(f"{module}.") for name in ran)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
