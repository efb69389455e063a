"""The report: verdict, digests, text, and the file that is complete or not there."""

import hashlib
import json
from pathlib import Path

import pytest

from bot.records import Check, Report, from_dict
from bot.validate import report
from tests.validate.factory import Case


def checks(*verdicts: str) -> list[Check]:
    return [Check(name=f"c{i}", verdict=v, figure="1 | 2", detail="a\nb") for i, v in enumerate(verdicts)]


def made(case: Case, *verdicts: str) -> Report:
    return report.make_report(
        case.plan, level="full", checks=checks(*verdicts), merged=case.merged, device="cpu", seconds=1.23456
    )


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (("passed", "skipped"), "passed"),
        (("passed", "failed"), "failed"),
        ((), "skipped"),
        (("skipped",), "skipped"),
    ],
)
def test_verdict(plain: Case, verdicts: tuple[str, ...], expected: str) -> None:
    assert made(plain, *verdicts).verdict == expected


def test_digests_are_of_every_file_but_the_report(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    before = made(case, "passed")
    report.write(before, case.merged)
    assert made(case, "passed").files == before.files
    assert (
        before.files["config.json"] == hashlib.sha256((case.merged / "config.json").read_bytes()).hexdigest()
    )
    assert set(before.files) == {p.name for p in case.merged.iterdir()} - {"merge_report.json"}


def test_file_round_trips_and_is_replaced_whole(plain: Case, tmp_path: Path) -> None:
    first, second = made(plain, "failed"), made(plain, "passed")
    report.write(first, tmp_path)
    path = report.write(second, tmp_path)
    assert from_dict(Report, json.loads(path.read_text())) == second
    assert [p.name for p in tmp_path.iterdir()] == ["merge_report.json"]


def test_summary_reads_as_a_table(plain: Case) -> None:
    text = report.summary(made(plain, "passed", "failed", "skipped"))
    assert "✗ failed" in text.splitlines()[0]
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "| c1 | ✗ failed | 1 \\| 2 | a b |" in text


def test_versions_name_what_was_used(plain: Case) -> None:
    assert set(made(plain).versions) == {"bot", "python", "torch", "transformers", "peft", "safetensors"}
