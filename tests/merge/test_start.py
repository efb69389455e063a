"""Adapters whose start changed the base, trained for a few steps: merged as the trained model is, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from bot.errors import RefusedError
from tests.merge.oracle import read_tensors
from tests.merge.training import BATCH, STARTS, distance
from tests.tiny.adapters import edit_config, live, rewrite_weights
from tests.tiny.models import logits

PLAIN = ["pissa_niter", "lora_ga", "corda"]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as refusal:
        call()
    return refusal.value.code


@pytest.mark.parametrize(
    "start",
    [pytest.param(s, marks=pytest.mark.slow) if s.startswith("pissa_niter_") else s for s in sorted(STARTS)],
)
def test_with_the_initial_adapter_it_is_the_model_that_was_trained(
    start: str, trained: Callable, merged: Callable, base_of: Callable
) -> None:
    adapter, _, want = trained(start)
    out, plan = merged(adapter, validation="full")
    assert distance(out, want) < 2e-5
    assert distance(base_of("llama"), want) > 1e-2
    assert plan.initial is not None
    assert plan.initial.location.endswith(f"{start}_init")
    assert any("is subtracted" in note for note in plan.notes)
    stored = set(load_file(adapter / "adapter_model.safetensors"))
    assert {k for b in plan.bindings for k in b.adapter} == stored


def without_start(adapter: Path, start: str, place: Path) -> str:
    (adapter / f"{start}_init").rename(place)
    return str(place)


@pytest.mark.parametrize(
    "start", [pytest.param(start, marks=pytest.mark.slow) if start != "corda" else start for start in PLAIN]
)
def test_the_residual_base_does_as_well(
    start: str, trained: Callable, merged: Callable, tmp_path: Path
) -> None:
    adapter, residual, want = trained(start, rate=2e-4 if start == "lora_ga" else 5e-3)
    without_start(adapter, start, tmp_path / "elsewhere")
    out, plan = merged(adapter, base=str(residual), validation="full")
    assert distance(out, want) < 2e-5
    assert plan.initial is None
    assert any("residual base, as told by --base" in note for note in plan.notes)


@pytest.mark.parametrize("start", PLAIN)
def test_a_base_that_is_not_plainly_the_residual_is_refused(
    start: str, trained: Callable, merged: Callable, base_of: Callable, tmp_path: Path
) -> None:
    """A mirror of the original, say, where adapter_config.json names a path on another machine."""
    adapter, _, _ = trained(start)
    without_start(adapter, start, tmp_path / "elsewhere")
    assert refused(lambda: merged(adapter)) == "feature-unsupported"
    assert refused(lambda: merged(adapter, base=str(base_of("llama")))) == "feature-unsupported"
    edit_config(adapter, base_model_name_or_path="/home/somebody/llama")
    assert refused(lambda: merged(adapter, base=str(base_of("llama")))) == "base-not-residual"
    assert not (tmp_path / "merged").exists()


def test_an_initial_adapter_may_be_named(trained: Callable, merged: Callable, tmp_path: Path) -> None:
    adapter, _, want = trained("lora_ga")
    place = without_start(adapter, "lora_ga", tmp_path / "elsewhere")
    out, _ = merged(adapter, initial_adapter=place)
    assert distance(out, want) < 2e-5


@pytest.mark.parametrize("start", ["pissa_niter", "corda"])
def test_the_start_is_not_taken_out_twice(start: str, trained: Callable, merged: Callable) -> None:
    adapter, residual, _ = trained(start)
    assert refused(lambda: merged(adapter, base=str(residual))) == "initial-adapter-differs"


@pytest.mark.parametrize("change", [{"lora_alpha": 16}, {"r": 2}, {"use_rslora": True}])
def test_an_adapter_of_another_kind_is_no_start(change: dict, trained: Callable, merged: Callable) -> None:
    adapter, _, _ = trained("pissa_niter")
    edit_config(adapter / "pissa_niter_init", **change)
    assert refused(lambda: merged(adapter)) == "initial-adapter-differs"


def test_another_start_is_refused(trained: Callable, merged: Callable) -> None:
    adapter, _, _ = trained("pissa_niter")
    rewrite_weights(adapter / "pissa_niter_init", lambda tensors: {k: v.flip(-1) for k, v in tensors.items()})
    assert refused(lambda: merged(adapter)) == "initial-adapter-differs"


@pytest.mark.parametrize("init", [True, False, "gaussian", "orthogonal", None])
def test_nothing_is_subtracted_from_an_adapter_whose_start_left_the_base_alone(
    init: object, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """An earlier checkpoint, say, named with --initial-adapter."""
    base, adapter = adapter_on("llama", {"r": 4})
    _, earlier = adapter_on("llama", {"r": 4}, name="earlier", seed=9, base=base)
    edit_config(adapter, init_lora_weights=init)
    assert refused(lambda: merged(adapter, initial_adapter=str(earlier))) == "initial-adapter-differs"
    assert not (tmp_path / "merged").exists()


def test_the_start_is_seen_in_the_base_where_the_config_is_silent(
    trained: Callable, merged: Callable
) -> None:
    """PEFT's examples set init_lora_weights to true for the initial adapter, and save both so."""
    adapter, _, want = trained("pissa_niter")
    edit_config(adapter, init_lora_weights=True)
    out, _ = merged(adapter, initial_adapter=str(adapter / "pissa_niter_init"))
    assert distance(out, want) < 2e-5


def test_no_initial_adapter_makes_loftq_exact(adapter_on: Callable, merged: Callable) -> None:
    base, adapter = adapter_on("llama", {"r": 4})
    _, start = adapter_on("llama", {"r": 4}, name="start", seed=9, base=base)
    edit_config(adapter, init_lora_weights="loftq")
    assert refused(lambda: merged(adapter, initial_adapter=str(start))) == "feature-unsupported"


def test_several_starts_are_refused(trained: Callable, merged: Callable) -> None:
    adapter, _, _ = trained("pissa_niter")
    shutil.copytree(adapter / "pissa_niter_init", adapter / "initial")
    assert refused(lambda: merged(adapter)) == "initial-adapter-ambiguous"


@pytest.fixture
def loftq(tmp_path: Path, base_of: Callable, adapter_on: Callable) -> tuple[Path, Path]:
    """An adapter that says LoftQ, and a base quantised to 16 values in blocks of 64 as LoftQ leaves it."""
    base, adapter = adapter_on("llama", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]})
    residual = tmp_path / "quantised"
    shutil.copytree(base, residual)
    tensors = read_tensors(residual)
    for name, weight in tensors.items():
        if "q_proj" in name:
            blocks = weight.reshape(-1, 64)
            peak = blocks.abs().amax(dim=1, keepdim=True)
            tensors[name] = ((blocks / peak * 7).round() / 7 * peak).reshape(weight.shape)
    save_file(tensors, residual / "model.safetensors", metadata={"format": "pt"})
    edit_config(adapter, base_model_name_or_path=str(residual))
    return adapter, residual


def test_loftq_on_its_quantised_base(loftq: tuple[Path, Path], merged: Callable, base_of: Callable) -> None:
    adapter, residual = loftq
    want = logits(live(residual, adapter), BATCH)
    edit_config(adapter, init_lora_weights="loftq", base_model_name_or_path="some/llama")
    out, _ = merged(adapter, base=str(residual), validation="full")
    assert distance(out, want) < 2e-5
    assert refused(lambda: merged(adapter, base=str(base_of("llama")))) == "base-not-residual"
