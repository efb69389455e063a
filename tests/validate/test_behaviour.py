"""The comparison of answers: tasks, memory, quiet, and models that do not load."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bot.evidence import Evidence
from bot.progress import Silent
from bot.records import Check
from bot.request import MergeRequest, Prompt
from bot.validate import memory, texts
from bot.validate.answers import Answers, compare, distance
from bot.validate.behaviour import check_behaviour
from tests.tiny.adapters import LORA_VARIANTS
from tests.validate.factory import Case, edit, make, put

TASKS = {
    "t5": {"r": 4, "task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "v"]},
    "bart": {"r": 4, "task_type": "SEQ_2_SEQ_LM", "target_modules": ["q_proj", "v_proj"]},
    "bert_model": {"r": 4, "task_type": "FEATURE_EXTRACTION", "target_modules": ["query", "value"]},
    "bert_tokcls": {"r": 4, "task_type": "TOKEN_CLS", "target_modules": ["query", "value"]},
    "roberta_seqcls": {"r": 4, "task_type": "SEQ_CLS", "target_modules": ["query", "value"]},
    "distilbert": {"r": 4, "target_modules": ["q_lin", "v_lin"]},
    "opt": LORA_VARIANTS["plain"],
}
QUICK = "bert_tokcls"


def ask(case: Case, *, prompts=(), text="") -> tuple[list[Check], Evidence]:
    return check_behaviour(
        case.merged,
        plan=case.plan,
        base_folder=case.base,
        adapter_folder=case.adapter,
        request=MergeRequest(adapter="", prompts=tuple(Prompt(text=p) for p in prompts), text=text),
        progress=Silent(),
    )


def behaviour(case: Case, **asked) -> dict[str, str]:
    return {check.name: check.verdict for check in ask(case, **asked)[0]}


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
@pytest.mark.parametrize(
    "architecture",
    [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TASKS],
)
def test_tasks(tmp_path: Path, architecture: str, dtype: str) -> None:
    case = make(tmp_path, architecture, TASKS[architecture], dtype=dtype)
    assert case.failed() == set()
    assert behaviour(case)["logits"] == "passed"


def test_without_tokenizer(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (case.merged / name).unlink()
    assert set(behaviour(case).values()) == {"passed"}


def test_own_prompts(plain: Case) -> None:
    assert set(behaviour(plain, prompts=("One.", "Two.")).values()) == {"passed"}


def test_too_little_memory_is_skipped_with_the_figure(plain: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 100 * 2**20)
    report = plain.report()
    assert report.check("logits").verdict == "skipped"
    assert "0.1 GiB are free: 0.2 GiB are missing" in report.check("logits").detail
    assert report.verdict == "passed"


def test_missing_tensor_fails_to_load(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    edit(case.merged, lambda t: {n: v for n, v in t.items() if "q_proj" not in n})
    assert behaviour(case)["load"] == "failed"


def test_mismatched_tensor_is_one_sentence(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    put(case.merged, "model.layers.0.self_attn.q_proj.weight", lambda t: t[:16])
    [check], _ = ask(case)
    assert (check.name, check.verdict) == ("load", "failed")
    assert "\n" not in check.detail


def test_unknown_model_class_is_a_failed_check(plain: Case) -> None:
    for name in ("NoSuchModel", "AutoConfig", "logging"):
        case = replace(plain, plan=replace(plain.plan, model_class=name))
        assert behaviour(case) == {"logits": "failed"}


def test_nothing_reaches_stdout(plain: Case, capfd: pytest.CaptureFixture[str]) -> None:
    plain.report()
    assert capfd.readouterr().out == ""


def answers(*, rounded: bool) -> Answers:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 4, 50, generator=generator)
    live = base + 0.1 * torch.randn(1, 4, 50, generator=generator)
    noisy = live + 0.01 * torch.randn(1, 4, 50, generator=generator)
    return Answers(base=[base], live=[live], rounded=[noisy] if rounded else None)


@pytest.mark.parametrize(
    ("rounded", "noise", "verdict"),
    [(False, 1e-7, "passed"), (False, 1e-3, "failed"), (True, 0.01, "passed"), (True, 0.03, "failed")],
)
def test_limits(rounded: bool, noise: float, verdict: str) -> None:
    expected = answers(rounded=rounded)
    generator = torch.Generator().manual_seed(1)
    merged = [t + noise * torch.randn(t.shape, generator=generator) for t in expected.live]
    assert compare(expected, merged)[0].verdict == verdict


def test_infinite_logits_that_agree_are_no_difference() -> None:
    masked = torch.tensor([1.0, float("-inf"), 3.0])
    assert distance([masked], [masked]).worst == 0
    assert distance([masked], [torch.tensor([1.0, float("nan"), 3.0])]).worst == float("inf")


def test_an_adapter_that_no_prompt_reaches_is_no_fault() -> None:
    same = [torch.randn(2, 3, 5)]
    found = {c.name: c.verdict for c in compare(Answers(base=same, live=same, rounded=None), same)}
    assert found["unlike_base"] == "skipped"


def test_a_tokenizer_that_takes_no_plain_text_is_asked_nothing() -> None:
    class Boxes:
        chat_template = None

        def __call__(self, text: str, **_: object) -> None:
            raise ValueError("Words must be of type `List[str]`")

    assert texts.ours(Boxes(), task="TOKEN_CLS") == []
