"""`python -m tests.validate.table`: every breakage that the tests make, and what `validate` said of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from bot.publish.escape import row
from bot.records import Check, Report
from tests.validate.factory import Case
from tests.validate.other_tools import Elsewhere

HERE = Path(__file__).parent
TESTS = ("test_other_tools.py", "test_broken_merges.py", "test_structure.py")
FOLDER = re.compile(r"/\S*/broken\b")  # where the tests keep what they break


class Told:
    """A plugin of pytest's that keeps every report that a test asks for, by the test's name."""

    def __init__(self) -> None:
        self.reports: dict[str, list[Report]] = {}
        self.failed: list[str] = []
        self._name = ""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._name = item.nodeid.rpartition("::")[2]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def listen(self, kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """Has reports of such cases come here as well."""
        ask = kind.report

        def report(case: Any, *arguments: Any, **options: Any) -> Report:
            found: Report = ask(case, *arguments, **options)
            self.reports.setdefault(self._name, []).append(found)
            return found

        monkeypatch.setattr(kind, "report", report)


def rows(told: Told) -> Iterator[str]:
    """A line for each test that asked for a report: the one with most to say of those that it asked for."""
    for name, reports in told.reports.items():
        report = max(reports, key=lambda found: len(_failed(found)))
        test, _, case = name.removeprefix("test_").partition("[")
        words = test.replace("_", " ") + (f": {case.removesuffix(']')}" if case else "")
        said = "<br>".join(f"`{c.name}` {c.detail}" for c in _failed(report)) or "every check passed"
        yield row(words, report.verdict, FOLDER.sub("DIR", said))


def _failed(report: Report) -> list[Check]:
    return [check for check in report.checks if check.verdict == "failed"]


def main() -> int:
    """Runs the tests and prints the table; the exit code is 1 when one of them failed."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    told = Told()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(StringIO()) as printed:
        for kind in (Elsewhere, Case):
            told.listen(kind, monkeypatch)
        pytest.main(["-q", "-p", "no:cacheprovider", *(str(HERE / name) for name in TESTS)], plugins=[told])
    print(row("What was done", "Verdict", "What `validate` said"))
    print(row("---", "---", "---"))
    for line in rows(told):
        print(line)
    if told.failed:
        print(printed.getvalue())
    return bool(told.failed)


if __name__ == "__main__":
    raise SystemExit(main())
