"""What whoever runs the bot wants beside a right merge: figures within thresholds, or nothing is finished."""

from dataclasses import replace

import pytest

from bot import pipeline
from bot.config.models import Config
from bot.config.rules import rules_for
from bot.doors.pushed import ruled, within
from bot.errors import ValidationError
from bot.progress import Silent
from bot.request import Destination, MergeRequest, Thresholds
from bot.settings import Settings
from tests.tiny.adapters import LORA_VARIANTS


@pytest.fixture
def merge(adapter_on, tmp_path):
    base, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    out = tmp_path / "merged"

    def merge(validation="tensors", **wanted):
        request = MergeRequest(
            adapter=str(adapter),
            base=str(base),
            destination=Destination(kind="folder", location=str(out)),
            validation=validation,
            thresholds=Thresholds(**wanted),
        )
        return pipeline.merge(request, settings=Settings(isolation="none"), progress=Silent())[2]

    return merge, out


def test_a_change_within_the_threshold_is_a_check_that_passed(merge):
    do, out = merge
    report = do(change=100.0)
    assert (report.checks[-1].name, report.checks[-1].verdict, report.verdict) == (
        "thresholds",
        "passed",
        "passed",
    )
    assert (out / "model.safetensors").is_file()


def test_where_nothing_is_wanted_there_is_no_such_check(merge):
    assert "thresholds" not in {check.name for check in merge[0]().checks}


@pytest.mark.parametrize(
    ("validation", "wanted", "said"),
    [
        ("tensors", {"change": 1e-6}, "largest change of a tensor"),
        ("structure", {"change": 100.0}, "not measured"),  # what nobody looked at is not within anything
        ("tensors", {"perplexity": 1.5}, "not measured"),
    ],
)
def test_what_is_beyond_a_threshold_or_was_not_measured_leaves_nothing(merge, validation, wanted, said):
    do, out = merge
    with pytest.raises(ValidationError) as raised:
        do(validation, **wanted)
    assert raised.value.code == "validation-thresholds"
    assert said in raised.value.report.checks[-1].figure + raised.value.report.checks[-1].detail
    assert "threshold" in raised.value.advice
    assert not out.exists()


def test_thresholds_come_from_the_rule_else_from_the_defaults(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("words " * 100_000)
    config = Config.model_validate(
        {
            "defaults": {"max_change": 2.0, "max_perplexity": 1.01, "perplexity_text": text},
            "watch": [{"owners": ["strict"], "max_change": 0.5}, {"owners": ["acme"]}],
        }
    )
    strict, usual = (ruled(rules_for(config, f"{owner}/lora"), "x/y@main") for owner in ("strict", "acme"))
    assert strict.thresholds == Thresholds(change=0.5, perplexity=1.01)
    assert usual.thresholds == Thresholds(change=2.0, perplexity=1.01)
    assert len(usual.text) == 65_536
    asked = MergeRequest(adapter="x/y@main")
    assert within(asked, config.defaults).thresholds == usual.thresholds
    own = replace(asked, thresholds=Thresholds(change=9.0))
    assert within(own, config.defaults) == own
