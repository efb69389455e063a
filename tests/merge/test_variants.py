"""Every flavour of LoRA against the live adapter's logits, and every flavour that is not merged refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bot.errors import RefusedError
from tests.merge.oracle import compare, float64_weights, read_tensors, spacing
from tests.tiny.adapters import LORA_VARIANTS, SUITS
from tests.validate.asking import ask

REFUSED = {
    "lora_bias": "no-bias",
    "alora": "feature-unsupported",
    "layer_replication": "feature-unsupported",
}
MERGED = sorted(LORA_VARIANTS.keys() - REFUSED.keys())


@pytest.mark.usefixtures("exact_svd")
@pytest.mark.parametrize("variant", MERGED)
def test_merged_answers_as_the_live_adapter_does(
    variant: str, adapter_on: Callable, merged: Callable
) -> None:
    architecture = SUITS.get(variant, "llama")
    base, adapter = adapter_on(architecture, LORA_VARIANTS[variant])
    out, plan = merged(adapter)
    difference = compare(architecture, base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05
    told = ask(base, adapter, out, plan=plan)
    assert (told.verdict, "Not asked" in told.detail) == ("passed", False), told.detail


@pytest.mark.parametrize("variant", sorted(REFUSED))
def test_what_is_not_merged_is_refused_by_name_before_anything_is_written(
    variant: str, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    _, adapter = adapter_on(SUITS.get(variant, "llama"), LORA_VARIANTS[variant])
    with pytest.raises(RefusedError) as refusal:
        merged(adapter)
    assert refusal.value.code == REFUSED[variant]
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("variant", ["plain", "odd_scale", "rslora", "patterns", "dora"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(
    variant: str, dtype: str, base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    """Each merged weight is within half a unit in the last place of float64, plus what float32 adds to that."""
    base = base_of("llama", dtype=dtype, shards=2)
    _, adapter = adapter_on("llama", LORA_VARIANTS[variant], base=base)
    out, _ = merged(adapter)
    tensors = read_tensors(out)
    for name, reference in float64_weights(base, adapter).items():
        assert tensors[name].dtype == getattr(torch, dtype)
        nearest = reference.to(tensors[name].dtype).double()
        ulp = (torch.nextafter(nearest, torch.full_like(nearest, torch.inf)) - nearest).abs()
        unit = spacing(reference, tensors[name].dtype)
        error = (tensors[name].double() - reference).abs()
        assert bool((error <= unit / 2 + 1e-6 * reference.abs().max() + ulp).all()), name
