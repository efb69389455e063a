"""Speed and memory of adapter and merged model: figures where models generate, and in the report."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from bot.publish.page import as_html
from bot.publish.report_text import report_text
from bot.validate import speed
from tests.tiny.models import load
from tests.validate.factory import Case

ROWS = [{"input_ids": torch.arange(20, 26)[None], "attention_mask": torch.ones((1, 6), dtype=torch.long)}]


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LEAST", 0)


def test_both_are_measured_and_told(plain: Case) -> None:
    report = plain.report()
    found = report.evidence.speed
    assert found is not None
    assert found.place == "the CPU with 1 thread"
    for pace in (found.adapter, found.merged):
        assert pace.tokens == speed.TOKENS
        assert 0 < pace.first_token_seconds < speed.TOKENS / pace.tokens_per_second * 10
        assert pace.peak_bytes is not None
        assert 5e7 < pace.peak_bytes < 5e10
    text = report_text(plain.plan, report)
    assert "## Speed and memory" in text
    assert f"| Tokens per second | {found.adapter.tokens_per_second:.3g} |" in text
    assert "<h2>Speed and memory</h2>" in as_html(plain.plan, report, drawn={})
    quiet = replace(report, evidence=replace(report.evidence, speed=None))
    assert "Speed and memory" not in report_text(plain.plan, quiet) + as_html(plain.plan, quiet, drawn={})


def test_an_encoder_and_decoder_generates_too(base_of: Callable) -> None:
    found = speed.pace(load(base_of("t5")), ROWS, device="cpu")
    assert found is not None
    assert found.tokens == speed.TOKENS


def test_time_ends_a_run(base_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PATIENCE", 1e-6)
    found = speed.pace(load(base_of("llama")), ROWS, device="cpu")
    assert found is not None
    assert found.tokens == 1


@pytest.mark.parametrize("architecture", ["bert_model", "vit", "llama_seqcls"])
def test_what_does_not_generate_has_no_pace(architecture: str, base_of: Callable) -> None:
    assert speed.pace(load(base_of(architecture)), ROWS, device="cpu") is None


def test_what_a_small_model_takes_is_no_figure(base_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LEAST", 10**9)
    assert speed.pace(load(base_of("llama")), ROWS, device="cpu") is None
