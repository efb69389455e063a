"""The report: verdict, digests and versions."""

import hashlib
import json
from pathlib import Path

import pytest

from bot import __version__
from bot.publish.result import write_record
from bot.records import Check, Report
from bot.serial import from_dict, to_json
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
    write_record(case.merged / report.FILE, before)
    assert made(case, "passed").files == before.files
    assert (
        before.files["config.json"] == hashlib.sha256((case.merged / "config.json").read_bytes()).hexdigest()
    )
    assert set(before.files) == {p.name for p in case.merged.iterdir()} - {"merge_report.json"}


def test_record_round_trips(plain: Case) -> None:
    made_once = made(plain, "failed")
    assert from_dict(Report, json.loads(to_json(made_once))) == made_once


def test_versions_name_what_was_used(plain: Case) -> None:
    found = made(plain).versions
    assert list(found) == ["adapter-merge-bot", "python", "torch", "transformers", "peft", "safetensors"]
    assert found["adapter-merge-bot"] == __version__
