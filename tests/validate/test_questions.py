"""Perplexity, continuations, embeddings, the baseline, own prompts: against plain transformers and PEFT."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bot.evidence import Evidence
from bot.progress import Silent
from bot.records import Check
from bot.request import MergeRequest, Prompt, Turn
from bot.validate import continuations
from bot.validate.behaviour import check_behaviour
from bot.validate.continuations import Continued
from bot.validate.texts import Start
from tests.tiny.adapters import live
from tests.tiny.models import ARCHITECTURES, load
from tests.tiny.tokenizers import SENTENCES
from tests.validate.factory import Case, again, make

TEXT = "\n".join(SENTENCES[:5])
QUERY = {"r": 4, "target_modules": ["query", "value"]}


def ask(case: Case, **asked) -> tuple[dict[str, Check], Evidence]:
    checks, found = check_behaviour(
        case.merged,
        plan=case.plan,
        base_folder=case.base,
        adapter_folder=case.adapter,
        request=MergeRequest(adapter="", **asked),
        progress=Silent(),
    )
    return {check.name: check for check in checks}, found


# perplexity


def measured(model, folder: Path, *, window: int) -> float:
    """By definition: each token from what its window holds before it, one forward pass for each."""
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")["input_ids"]
    stride, losses = window // 2, []
    for place in range(1, ids.shape[1]):
        begin = max(0, stride * math.ceil((place + 1 - window) / stride))
        with torch.no_grad():
            logits = model(input_ids=ids[:, begin:place]).logits[0, -1]
        losses.append(-logits.double().log_softmax(-1)[ids[0, place]])
    return float(torch.stack(losses).mean().exp())


def test_perplexity_is_that_of_each_token_behind_its_window(plain: Case) -> None:
    checks, found = ask(plain, text=TEXT)
    told = found.perplexity
    assert checks["perplexity"].verdict == "passed"
    assert (told.window, told.cut) == (64, False)
    assert told.tokens > 2 * told.window
    assert told.base == pytest.approx(measured(load(plain.base), plain.base, window=64), rel=1e-5)
    models = (live(plain.base, plain.adapter), load(plain.merged))
    for value, model in zip((told.adapter, told.merged), models, strict=True):
        assert value == pytest.approx(measured(model, plain.base, window=64), rel=1e-5)
    assert abs(told.base / told.adapter - 1) > 1e-3


@pytest.mark.parametrize("kind", ["plain", pytest.param("half", marks=pytest.mark.slow)])
def test_a_delta_that_is_there_a_little_too_often_shows_in_the_losses(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    good = request.getfixturevalue(kind)
    assert ask(good, text=TEXT)[0]["perplexity"].verdict == "passed"
    case = good.copy(tmp_path)
    again(case, times=1.3)
    check = ask(case, text=TEXT)[0]["perplexity"]
    assert check.verdict == "failed"
    assert "allowed" in check.detail


def test_a_long_text_is_cut_and_that_is_said(plain: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.validate.perplexity.MOST", 100)
    checks, found = ask(plain, text=TEXT)
    assert found.perplexity.cut
    assert found.perplexity.tokens == 99
    assert "on the first 99 tokens" in checks["perplexity"].figure


@pytest.mark.parametrize(
    ("architecture", "config", "why"),
    [
        ("bert_tokcls", QUERY | {"task_type": "TOKEN_CLS"}, "does not predict the next token"),
        ("t5", {"r": 4, "task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "v"]}, "encoder-decoder"),
    ],
)
def test_models_without_perplexity_say_why(tmp_path: Path, architecture: str, config: dict, why: str) -> None:
    checks, found = ask(make(tmp_path, architecture, config), text=TEXT)
    assert checks["perplexity"].verdict == "skipped"
    assert why in checks["perplexity"].detail
    assert found.perplexity is None
    assert checks["logits"].verdict == "passed"


def test_a_text_of_one_token_and_a_model_without_tokenizer(plain: Case, tmp_path: Path) -> None:
    assert "less than two tokens" in ask(plain, text="a")[0]["perplexity"].detail
    case = plain.copy(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (case.merged / name).unlink()
    checks, found = ask(case, text=TEXT, prompts=(Prompt(text="Hello"),))
    assert checks["perplexity"].verdict == checks["prompts"].verdict == "skipped"
    assert checks["logits"].verdict == "passed"
    assert not found.continuations


def test_without_a_text_there_is_no_word_of_it(plain: Case) -> None:
    checks, found = ask(plain)
    assert "perplexity" not in checks
    assert found.perplexity is None


# continuations


def said(model, folder: Path, text: str, **encoding) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.generation_config.forced_eos_token_id = None  # BART's: a token that is not the most likely one
    batch = tokenizer(text, return_tensors="pt", **encoding)
    made = model.generate(**batch, max_new_tokens=20, do_sample=False)
    new = made[0] if model.config.is_encoder_decoder else made[0, batch["input_ids"].shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True)


def test_the_models_go_on_as_they_do_by_themselves(plain: Case) -> None:
    prompts = (
        Prompt(text="An adapter is"),
        Prompt(chat=(Turn(role="system", content="Be brief."), Turn(role="user", content="Why?"))),
    )
    checks, found = ask(plain, prompts=prompts)
    assert checks["continuations"].verdict == "passed"
    asked = ["An adapter is", "<s>system: Be brief.</s>\n<s>user: Why?</s>\n<s>assistant:"]
    assert [each.prompt for each in found.continuations] == ["An adapter is", "system: Be brief.\nuser: Why?"]
    models = {
        "base": load(plain.base),
        "adapter": live(plain.base, plain.adapter),
        "merged": load(plain.merged),
    }
    for text, each in zip(asked, found.continuations, strict=True):
        for name, model in models.items():
            assert getattr(each, name) == said(model, plain.base, text)
        assert each.base != each.adapter == each.merged
        assert each.agreement == "same"


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoder_decoders_go_on_too(tmp_path: Path, architecture: str) -> None:
    names = ["q", "v"] if architecture == "t5" else ["q_proj", "v_proj"]
    case = make(tmp_path, architecture, {"r": 4, "task_type": "SEQ_2_SEQ_LM", "target_modules": names})
    checks, found = ask(case, prompts=(Prompt(text="The quick brown fox"),))
    assert checks["continuations"].verdict == "passed"
    [told] = found.continuations
    assert told.merged == told.adapter == said(load(case.merged), case.base, "The quick brown fox")


def test_a_wrong_merge_goes_on_otherwise(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    again(case, times=-3.0)
    checks, found = ask(case)
    assert checks["continuations"].verdict == "failed"
    assert "other" in {each.agreement for each in found.continuations}


def test_what_a_generation_config_says_of_sampling_and_penalties_is_left_out(
    plain: Case, tmp_path: Path
) -> None:
    before = ask(plain)[1].continuations
    case = plain.copy(tmp_path)
    path = case.merged / "generation_config.json"
    odd = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 3.0, "max_new_tokens": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | odd))
    assert ask(case)[1].continuations == before


def continued(*logits: list[float]) -> Continued:
    tops = [torch.tensor(row).topk(3) for row in logits]
    return Continued(
        ids=[int(top.indices[0]) for top in tops], tops=[(top.indices, top.values) for top in tops]
    )


class Numbers:
    """A tokenizer whose texts are the ids."""

    def decode(self, ids, **_):
        return str(ids)


def side_by_side(merged: list, *, perfect: list | None = None) -> tuple[str, str]:
    ours = continued([3.0, 2.0, 1.0, 0.0], [0.0, 4.0, 3.9, 0.0])
    check, [told] = continuations.compare(
        [Start(prompt=Prompt(text="x"), ids=torch.zeros(1, 1), cut=False)],
        base=[ours],
        live=[ours],
        merged=[continued(*merged)],
        rounded=perfect and [continued(*perfect)],
        limit=0.06,
        tokenizer=Numbers(),
    )
    return told.agreement, check.verdict


@pytest.mark.parametrize(
    ("merged", "agreement", "verdict"),
    [
        ([[3.0, 2.0, 1.0, 0.0], [0.0, 4.0, 3.9, 0.0]], "same", "passed"),
        ([[3.0, 2.0, 1.0, 0.0], [0.0, 3.9, 4.0, 0.0]], "tie", "passed"),
        ([[3.0, 2.0, 1.0, 0.0], [9.0, 4.0, 3.9, 0.0]], "other", "failed"),
        ([[2.0, 3.0, 1.0, 0.0], [0.0, 4.0, 3.9, 0.0]], "other", "failed"),
        ([[3.0, 2.0, 1.0, 9.0], [0.0, 4.0, 3.9, 0.0]], "other", "failed"),
    ],
)
def test_only_a_tie_explains_another_token(merged: list, agreement: str, verdict: str) -> None:
    assert side_by_side(merged) == (agreement, verdict)


def test_where_a_perfect_merge_takes_the_same_turn_it_is_rounding() -> None:
    turn = [[3.0, 2.0, 1.0, 0.0], [9.0, 4.0, 3.9, 0.0]]
    assert side_by_side(turn, perfect=turn) == ("tie", "passed")
    assert side_by_side(turn, perfect=[[3.0, 2.0, 1.0, 0.0], [0.0, 4.0, 3.9, 9.0]]) == ("other", "failed")


# the user's own prompts


def test_prompts_that_are_left_out_and_cut_are_told(
    plain: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuations, "NEW", 2)
    case = plain.copy(tmp_path)
    (case.merged / "chat_template.jinja").write_text("{{ raise_exception('no systems here') }}")
    chat = Prompt(chat=(Turn(role="system", content="x"),))
    checks, found = ask(case, prompts=(Prompt(text=TEXT), chat, *[Prompt(text="Hello")] * 20))
    assert checks["prompts"].verdict == "skipped"
    for words in (
        "the first 16 of 22",
        "Cut to 62 tokens: 1 prompt",
        "Left out: 1 prompt",
        "no systems here",
    ):
        assert words in checks["prompts"].detail
    assert len(found.continuations) == 15
    assert checks["logits"].verdict == "passed"


def test_chats_need_a_template(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    (case.merged / "chat_template.jinja").unlink()
    checks, found = ask(case, prompts=(Prompt(chat=(Turn(role="user", content="x"),)),))
    assert "the tokenizer has no chat template" in checks["prompts"].detail
    assert checks["logits"].verdict == "passed"
    assert all("user" not in each.prompt for each in found.continuations)


# tasks


def test_features_are_compared_as_embeddings(tmp_path: Path) -> None:
    case = make(tmp_path, "bert_model", QUERY | {"task_type": "FEATURE_EXTRACTION"})
    checks, found = ask(case, prompts=(Prompt(text="The quick brown fox"), Prompt(text="Der schnelle Fuchs")))
    assert checks["embeddings"].verdict == "passed"
    assert "answers" not in checks
    assert not found.continuations
    tokenizer = AutoTokenizer.from_pretrained(case.base)
    models = load(case.base), live(case.base, case.adapter)
    cosines = []
    for text in ("The quick brown fox", "Der schnelle Fuchs"):
        batch = tokenizer(text, return_tensors="pt")
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            pooled = [m(**batch).last_hidden_state.mean(dim=1) for m in models]
        cosines.append(float(torch.cosine_similarity(*pooled)))
    figure = checks["embeddings"].figure
    assert figure == f"cosine at least 1.0000000; the base's {min(cosines):.4f}"
    broken = case.copy(tmp_path)
    again(broken, times=1.5)
    assert ask(broken)[0]["embeddings"].verdict == "failed"


def test_each_token_has_an_answer(tmp_path: Path) -> None:
    case = make(tmp_path, "bert_tokcls", QUERY | {"task_type": "TOKEN_CLS"})
    checks, _ = ask(case, prompts=(Prompt(text="The quick brown fox"),))
    tokens = AutoTokenizer.from_pretrained(case.base)("The quick brown fox")["input_ids"]
    assert checks["answers"].figure.startswith(f"{len(tokens)} of {len(tokens)} the same")


def test_an_answer_within_a_text_is_its_two_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ARCHITECTURES["bert_tokcls"]
    entry = replace(plain, auto="AutoModelForQuestionAnswering", sizes=plain.sizes | {"num_labels": 2})
    monkeypatch.setitem(ARCHITECTURES, "bert_qa", entry)
    case = make(tmp_path, "bert_qa", QUERY | {"task_type": "QUESTION_ANS"})
    checks, _ = ask(case, prompts=(Prompt(text="The quick brown fox"), Prompt(text="Der Fuchs")))
    assert checks["answers"].verdict == "passed"
    assert checks["answers"].figure.startswith("4 of 4 the same")
    again(case, times=-2.0)
    assert ask(case)[0]["logits"].verdict == "failed"


# the baseline


def test_the_baseline_is_the_live_model_in_the_merged_dtype(half: Case) -> None:
    prompt = "The quick brown fox"
    checks, found = ask(half, prompts=(Prompt(text=prompt),))
    ids = AutoTokenizer.from_pretrained(half.base)(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        one, two = (
            live(half.base, half.adapter, dtype=kind)(input_ids=ids).logits.double()
            for kind in (torch.float32, torch.bfloat16)
        )
    assert found.baseline.dtype == "bfloat16"
    assert found.baseline.worst == pytest.approx(float((one - two).abs().max()), rel=1e-3)
    assert found.baseline.mean == pytest.approx(float((one - two).square().mean().sqrt()), rel=1e-3)
    assert 0 < found.baseline.merged_mean < found.baseline.mean
    assert f"base + adapter in bfloat16 is {found.baseline.worst:.2g} from itself" in checks["logits"].figure


def test_in_float32_there_is_no_baseline(plain: Case) -> None:
    assert ask(plain)[1].baseline is None
