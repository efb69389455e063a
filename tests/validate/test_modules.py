"""Check `modules`: live layers and merged weights. Every PEFT type and variant of LoRA passes it in tests/merge."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bot.progress import Silent
from bot.records import Check
from bot.validate import modules
from bot.validate.modules import SURE, TOLD, _compared
from tests.tiny.adapters import LORA_VARIANTS, save_adapter
from tests.validate.asking import ask, layers
from tests.validate.factory import edit, put
from tests.validate.other_tools import Elsewhere, make, tensors

Q = "model.layers.1.self_attn.q_proj"
EMBED = "model.embed_tokens"


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return make(tmp_path_factory.mktemp("single"), "llama", "rslora")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return make(tmp_path_factory.mktemp("half"), "llama", "rslora", dtype="bfloat16")


def asked(case: Elsewhere) -> Check:
    return ask(case.base, case.adapter, case.merged, plan=case.plan())


@pytest.mark.parametrize(("name", "factor"), [("single", 0), ("single", 2), ("half", 0.4)])
def test_one_wrong_module_is_named_with_how_often_the_delta_is_there(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, factor: float
) -> None:
    good = request.getfixturevalue(name)
    case = good.copy(tmp_path)
    case.times(factor, only=Q)
    check = asked(case)
    assert check.verdict == "failed"
    assert check.figure.startswith("13 of 14 layers alike")
    assert check.detail.startswith(f"{Q}: off by 0.")
    times = float(check.detail.removesuffix(" times.").rpartition(" ")[2])
    assert times == pytest.approx(factor, abs=0.02)


def test_a_missing_delta_shows_where_a_rounding_moves_more(half: Elsewhere, tmp_path: Path) -> None:
    """A fortieth of a tenth of the weight: within what bfloat16 allows, and the delta is not there all the same."""
    adapter = save_adapter(
        tmp_path / "faint", half.base, config=LORA_VARIANTS["rslora"], architecture="llama"
    )
    edit(adapter, lambda ts: {n: t * (0.025 if "lora_B" in n else 1) for n, t in ts.items()})
    check = asked(replace(half, adapter=adapter, merged=half.base))
    assert check.verdict == "failed"
    assert float(check.figure.rpartition(", ")[2].partition("%")[0]) < 100
    assert "the delta is there -0.0" in check.detail or "the delta is there 0.0" in check.detail


@pytest.mark.parametrize(
    ("architecture", "variant", "broken"),
    [
        ("gpt2", "plain", "transformer.h.1.attn.c_attn"),
        ("vit", "conv2d", "vit.embeddings.patch_embeddings.projection"),
        ("llama", "embedding", EMBED),
        ("llama", "trainable_tokens", EMBED),
        ("llama", "save_lm_head", "lm_head"),
        ("opt", "bias_all", "model.decoder.layers.0.fc1"),
        ("gpt_oss", "target_parameters", "model.layers.1.mlp.experts.down_proj"),
    ],
)
def test_each_kind_of_layer_can_be_wrong(
    tmp_path: Path, architecture: str, variant: str, broken: str
) -> None:
    case = make(tmp_path, architecture, LORA_VARIANTS[variant])
    good = asked(case)
    assert (good.verdict, "Not asked" in good.detail) == ("passed", False), good.detail
    before = tensors(case.base)
    place = f"{broken.partition('.experts.')[0]}." if ".experts." in broken else f"{broken}."
    edit(case.merged, lambda ts: {n: before[n] if n.startswith(place) else t for n, t in ts.items()})
    check = asked(case)
    assert check.verdict == "failed"
    assert broken in check.detail


def test_a_kind_that_cannot_be_asked_is_named(single: Elsewhere) -> None:
    every = list(layers(single.base, single.adapter, single.merged, plan=single.plan()))
    every[3].plain = torch.nn.LSTM(4, 4)
    check = modules.check_modules(lambda: every, rounded_more=False, progress=Silent())
    assert check.figure.startswith("13 of 13 layers alike")
    assert f"Not asked: {every[3].name} (TypeError: what a LSTM is asked is not known here)." in check.detail


def test_layers_that_do_not_fit_into_memory_are_named(
    single: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "available", lambda: modules.COPIES * modules.NUMBER * 1500)
    check = asked(single)
    assert check.verdict == "passed"
    assert "mlp.down_proj" in check.detail
    assert "GiB is missing" in check.detail
    monkeypatch.setattr(modules, "available", lambda: 0)
    assert asked(single).verdict == "skipped"


def test_weights_that_are_not_there_not_finite_or_of_another_shape(single: Elsewhere, tmp_path: Path) -> None:
    weight = f"{Q}.weight"
    case = single.copy(tmp_path)
    put(case.merged, weight, lambda t: t.index_fill(0, torch.tensor([3]), float("nan")))
    assert f"{Q}: its answer is not finite" in asked(case).detail
    put(case.merged, weight, lambda t: t[:16])
    assert f"{Q}: ValueError: it answers with" in asked(case).detail
    edit(case.merged, lambda ts: {n: t for n, t in ts.items() if n != weight})
    assert f"{Q}: LookupError: the merged model has no {weight}." in asked(case).detail


def test_an_adapter_without_live_layers_is_not_asked(single: Elsewhere) -> None:
    plan = single.plan()
    other = replace(plan, adapter_config=plan.adapter_config | {"r": 2})
    check = ask(single.base, single.adapter, single.merged, plan=other)
    assert check.verdict == "skipped"
    assert check.detail.startswith("There are no live layers to ask. ")


def test_the_bound_is_what_it_says() -> None:
    ones = torch.ones(8, 8)
    assert modules.bound([ones.bfloat16()], slack=1) == pytest.approx(2**-7, rel=1e-2)
    assert modules.bound([ones.half(), ones], slack=1) == pytest.approx(2**-10, rel=5e-2)
    assert modules.bound([ones], slack=1) < 2**-14
    assert modules.bound([ones.half() * 1e-6], slack=1) > 2**-6  # there float16 has few digits


def test_one_rounding_stays_within_the_bound_and_is_seen(half: Elsewhere) -> None:
    check = asked(half)
    assert check.verdict == "passed"
    assert check.figure.startswith("14 of 14 layers alike; worst off by ")
    share = float(check.figure.rpartition(", ")[2].partition("%")[0])
    assert 5 < share < 60


@pytest.mark.parametrize(("told", "right"), [(TOLD, False), (SURE, True)])
def test_a_rounding_that_swallows_a_small_rescaling_is_no_fault(told: float, right: bool) -> None:
    """All weights are 1, and an eighth of a unit more is 1 again: for what rescales, that says nothing."""
    base = torch.ones(32, 64)
    delta = 0.3 * torch.finfo(torch.bfloat16).eps
    found = _compared(
        "norm",
        base,
        live=base * (1 + delta),
        base=base,
        weights={"weight": torch.ones(64, dtype=torch.bfloat16)},
        slack=1,
        told=told,
    )
    assert found.right is right
