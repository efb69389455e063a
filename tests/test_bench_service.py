"""The benchmark of the service: that it measures, compares with what is required, and keeps the sections apart."""

from __future__ import annotations

import json

import pytest

from benchmarks import service
from benchmarks.sections.place import Figure, Section, percentile


def test_a_quick_run_loses_nothing_and_writes_nothing_down(tmp_path, capsys):
    results = tmp_path / "service.json"
    given = ["--quick", "--no-postgres", "--only", "inbox", "--dir", str(tmp_path), "--results", str(results)]
    service.main(given)
    shown = capsys.readouterr().out
    for row in ("SQLite: lost", "SQLite: twice"):
        cells = next(line for line in shown.splitlines() if row in line).split("│")
        assert [cell.strip() for cell in cells[2:5]] == ["0", "≤ 0", "met"]
    assert list(tmp_path.iterdir()) == []


def test_sections_that_are_not_measured_stay_and_one_that_misses_is_said(tmp_path, monkeypatch):
    results = tmp_path / "service.json"
    slow = Section(title="slow", measure=lambda _: [Figure(name="x", value=3, unit="ms", most=2)])
    quick = Section(title="quick", measure=lambda _: [Figure(name="x", value=3, unit="/s", least=2)])
    monkeypatch.setattr(service, "SECTIONS", {"slow": slow, "quick": quick})
    common = ["--no-postgres", "--results", str(results)]
    assert service.main([*common, "--only", "slow"]) == 1
    assert service.main([*common, "--only", "quick"]) == 0
    found = json.loads(results.read_text("utf-8"))["sections"]
    assert {name: each["figures"][0]["met"] for name, each in found.items()} == {"slow": False, "quick": True}
    assert set(found["slow"]["machine"]) >= {"processor", "cores", "load"}


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (99, 10), (100, 10), (10, 1)])
def test_a_percentile_is_one_of_the_values(percent, value):
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent) == value
