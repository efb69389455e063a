"""Where PEFT's own `merge_and_unload` is silently wrong: that it still is, and that ours is right or refuses by name.

Each test shows both halves, so that it tells when PEFT changes. What other engines get wrong is held elsewhere:
embedding LoRA, trainable_token_indices, lora_bias, bias=all, aLoRA, KaSA, layer_replication, new heads, rsLoRA,
patterns and DoRA in test_variants.py; saved or targeted tied embeddings in test_architectures.py; a folder that only
exists in tests/publish/test_folder.py; padded vocabularies in test_vocabulary.py; configs without peft_type in
tests/plan/test_patches.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from bot.errors import RefusedError
from tests.merge.oracle import compare, float64_weights, read_tensors
from tests.merge.training import BATCH, distance
from tests.tiny.adapters import LORA_VARIANTS, edit_config, live, rewrite_weights
from tests.tiny.models import inputs, load, logits

PLAIN = LORA_VARIANTS["plain"]
WRONG = 1e-2  # an error of PEFT's that nobody could call rounding
RIGHT = 2e-5


def peft_merge(base: Path, adapter: Path, **options: Any) -> Any:
    """The usual script: load, `merge_and_unload`. `safe_merge`, `low_cpu_mem_usage` and `dtype` as there."""
    safe = options.pop("safe_merge", False)
    model = load(base, dtype=options.pop("dtype", None))
    merged: Any = PeftModel.from_pretrained(model, str(adapter), **options).merge_and_unload(safe_merge=safe)
    return merged.eval()


def peft_error(architecture: str, base: Path, adapter: Path, *, place: Path, **options: Any) -> float:
    """How far PEFT's merged model, saved and loaded again, is off the live adapter."""
    batch = inputs(architecture, base)
    peft_merge(base, adapter).save_pretrained(place)
    want = logits(live(base, adapter, **options), batch)
    return float((logits(load(place, dtype=torch.float32), batch) - want).abs().max())


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as refused:
        call()
    return refused.value.code


def misrounded(tensors: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The share of elements that are not the float64 value, rounded once."""
    wrong = sum(int((tensors[k] != v.to(tensors[k].dtype)).sum()) for k, v in exact.items())
    return wrong / sum(v.numel() for v in exact.values())


# The eleven rows of the table.


@pytest.mark.parametrize("variant", ["embedding", "lm_head"])
def test_1_lora_on_tied_embeddings(
    variant: str, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """PEFT writes into the storage that both share, and saves no head."""
    base, adapter = adapter_on("llama_tied", LORA_VARIANTS[variant])
    assert peft_error("llama_tied", base, adapter, place=tmp_path / "peft") > WRONG
    out, plan = merged(adapter)
    assert compare("llama_tied", base=base, adapter=adapter, out=out, plan=plan).error < RIGHT
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in read_tensors(out)


def test_2_ensured_weight_tying(adapter_on: Callable, merged: Callable, tmp_path: Path) -> None:
    """PEFT adds the delta twice, once for each of the two modules."""
    base, adapter = adapter_on("llama_tied", LORA_VARIANTS["weight_tying_both"])
    assert peft_error("llama_tied", base, adapter, place=tmp_path / "peft") > WRONG
    out, plan = merged(adapter)
    assert compare("llama_tied", base=base, adapter=adapter, out=out, plan=plan).error < RIGHT
    assert not plan.added


def test_3_layer_replication(adapter_on: Callable, merged: Callable, tmp_path: Path) -> None:
    """PEFT merges the adapters of both copies into the one weight that they share."""
    base, adapter = adapter_on("llama", LORA_VARIANTS["layer_replication"])
    batch = inputs("llama", base)
    want = logits(live(base, adapter), batch)
    got = logits(peft_merge(base, adapter, low_cpu_mem_usage=False), batch)
    assert float((got - want).abs().max()) > WRONG
    assert refusal(lambda: merged(adapter)) == "feature-unsupported"


def test_5_expert_keys_of_transformers_4(base_of: Callable, merged: Callable, tmp_path: Path) -> None:
    """PEFT drops the experts' LoRA of Qwen2-MoE without a word; it converts that of Mixtral and Qwen3-MoE."""
    base, adapter = base_of("qwen2_moe"), tmp_path / "adapter"
    targets = ("q_proj", "gate_proj", "up_proj", "down_proj")
    names = [k.removesuffix(".weight") for k in read_tensors(base)]
    _write_lora(adapter, base, modules=[n for n in names if n.endswith(targets)], targets=list(targets))
    exact = float64_weights(base, adapter)
    peft_merge(base, adapter).save_pretrained(tmp_path / "peft")
    out, _ = merged(adapter)
    theirs, ours, before = read_tensors(tmp_path / "peft"), read_tensors(out), read_tensors(base)
    experts = [name for name in exact if ".experts." in name]
    assert experts
    assert all(torch.equal(theirs[name], before[name]) for name in experts)
    for name, reference in exact.items():
        assert torch.allclose(ours[name].double(), reference, atol=1e-6), name


def _write_lora(adapter: Path, base: Path, *, modules: list[str], targets: list[str]) -> None:
    adapter.mkdir()
    tensors, generator = read_tensors(base), torch.Generator().manual_seed(0)
    weights = {}
    for module in modules:
        rows, columns = tensors[f"{module}.weight"].shape
        weights[f"base_model.model.{module}.lora_A.weight"] = torch.randn(4, columns, generator=generator) / 5
        weights[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) / 20
    save_file(weights, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "use_rslora": False}
    config |= {"rank_pattern": {}, "alpha_pattern": {}, "target_modules": targets}
    config["base_model_name_or_path"] = str(base)
    (adapter / "adapter_config.json").write_text(json.dumps(config))


def test_6_tensors_that_no_target_covers(adapter_on: Callable, merged: Callable, tmp_path: Path) -> None:
    """PEFT drops them, without a warning."""
    base, adapter = adapter_on("llama", PLAIN)
    want = logits(live(base, adapter), inputs("llama", base))
    edit_config(adapter, target_modules=["q_proj", "v_proj"])
    got = logits(peft_merge(base, adapter), inputs("llama", base))
    assert float((got - want).abs().max()) > WRONG
    assert refusal(lambda: merged(adapter)) == "adapter-tensor-left-over"


@pytest.mark.parametrize(("row", "start"), [(7, "lora_ga"), (8, "pissa_niter")])
def test_7_and_8_starts_that_cannot_be_done_again(
    row: int, start: str, trained: Callable, merged: Callable, base_of: Callable
) -> None:
    """PEFT merges onto the wrong base; test_start.py has what makes these exact."""
    adapter, _, want = trained(start)
    got = logits(peft_merge(base_of("llama"), adapter), BATCH)
    assert float((got - want).abs().max()) > WRONG
    out, _ = merged(adapter)
    assert distance(out, want) < RIGHT
    for path in (adapter / f"{start}_init").iterdir():
        path.unlink()
    assert refusal(lambda: merged(adapter, out=out.with_name("again"))) == "feature-unsupported"


@pytest.mark.parametrize(("row", "options"), [(9, {"low_cpu_mem_usage": True}), (10, {"safe_merge": True})])
def test_9_and_10_what_is_rounded_twice(
    row: int, options: dict, base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    """`low_cpu_mem_usage` rounds the adapter to the base's dtype first, `safe_merge` the delta."""
    base = base_of("llama", dtype="bfloat16")
    _, adapter = adapter_on("llama", PLAIN, base=base)
    _, fine = adapter_on("llama", PLAIN, name="fine")
    rewrite_weights(adapter, lambda _: _float32(fine))
    exact = float64_weights(base, adapter)
    state = {k: v for k, v in peft_merge(base, adapter, **options).state_dict().items() if k in exact}
    assert misrounded(state, exact) > 0.05
    out, _ = merged(adapter)
    assert misrounded(read_tensors(out), exact) < 1e-3


def _float32(adapter: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {k: v.float() for k, v in load_file(adapter / "adapter_model.safetensors").items()}


def test_11_deltas_of_experts(
    base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """PEFT rounds the delta of `target_parameters` before it adds it. The reference is the same merge in float32."""
    base = base_of("qwen3_moe", dtype="bfloat16")
    _, adapter = adapter_on("qwen3_moe", LORA_VARIANTS["target_parameters"], base=base)
    rewrite_weights(adapter, lambda tensors: {k: v.float() * 1.01 for k, v in tensors.items()})
    for name, dtype in (("exact", torch.float32), ("peft", torch.bfloat16)):
        peft_merge(base, adapter, dtype=dtype).save_pretrained(tmp_path / name)
    exact = {k: v.double() for k, v in read_tensors(tmp_path / "exact").items() if ".experts." in k}
    assert misrounded(read_tensors(tmp_path / "peft"), exact) > 0.05
    out, _ = merged(adapter)
    assert misrounded(read_tensors(out), exact) < 1e-3


# The lines below the table.


def _zero(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v * 0 if "lora_B" in k else v for k, v in tensors.items()}


@pytest.mark.parametrize("way", ["B", "alpha"])
def test_adapters_that_change_nothing(way: str, adapter_on: Callable, merged: Callable) -> None:
    base, adapter = adapter_on("llama", PLAIN)
    if way == "B":
        rewrite_weights(adapter, _zero)
    else:
        edit_config(adapter, lora_alpha=0)
    before, after = load(base).state_dict(), peft_merge(base, adapter).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert refusal(lambda: merged(adapter)) == "no-effect"


def test_nan_in_weights(adapter_on: Callable, merged: Callable) -> None:
    base, adapter = adapter_on("llama", PLAIN)
    rewrite_weights(
        adapter, lambda t: {k: v * torch.nan if "0.self_attn.q" in k else v for k, v in t.items()}
    )
    assert not all(p.isfinite().all() for p in peft_merge(base, adapter).parameters())
    assert refusal(lambda: merged(adapter)) == "adapter-not-finite"


def test_nan_in_the_config(adapter_on: Callable, merged: Callable) -> None:
    base, adapter = adapter_on("llama", PLAIN)
    edit_config(adapter, lora_alpha=float("nan"))
    assert not all(p.isfinite().all() for p in peft_merge(base, adapter).parameters())
    assert refusal(lambda: merged(adapter)) == "config-not-finite"


HOME = "base_model.model."
FOREIGN = {
    "module.": lambda name: f"module.{name}",
    "_orig_mod.": lambda name: f"_orig_mod.{name}",
    "_fsdp_wrapped_module.": lambda name: name.replace("layers.", "layers._fsdp_wrapped_module.", 1),
    "base_model.model. twice": lambda name: HOME + name,
    "no base_model.model.": lambda name: name.removeprefix(HOME),
}


@pytest.mark.parametrize(
    "way",
    [
        w if w in {"module.", "base_model.model. twice"} else pytest.param(w, marks=pytest.mark.slow)
        for w in FOREIGN
    ],
)
def test_foreign_prefixes(way: str, adapter_on: Callable, merged: Callable) -> None:
    """PEFT loads nothing from such a file, with no more than a warning."""
    base, adapter = adapter_on("llama", PLAIN)
    want = logits(live(base, adapter), inputs("llama", base))
    rewrite_weights(adapter, lambda tensors: {FOREIGN[way](k): v for k, v in tensors.items()})
    with pytest.warns(UserWarning, match="missing adapter keys"):
        got = logits(peft_merge(base, adapter), inputs("llama", base))
    assert float((got - want).abs().max()) > WRONG
    out, plan = merged(adapter, validation="full")
    kind = load(out, dtype=torch.float32)
    assert float((logits(kind, inputs("llama", base)) - want).abs().max()) < RIGHT
    assert any("pass over" in note for note in plan.notes)


def test_a_lost_model_prefix(adapter_on: Callable, merged: Callable) -> None:
    base, adapter = adapter_on("llama", PLAIN)
    want = logits(live(base, adapter), inputs("llama", base))
    rewrite_weights(adapter, lambda t: {k.replace(f"{HOME}model.", HOME, 1): v for k, v in t.items()})
    with pytest.warns(UserWarning, match="missing adapter keys"):
        got = logits(peft_merge(base, adapter), inputs("llama", base))
    assert float((got - want).abs().max()) > WRONG
    assert refusal(lambda: merged(adapter)) == "adapter-does-not-fit"


def test_the_adapters_name_in_names_is_fine(adapter_on: Callable, merged: Callable) -> None:
    """`.default.`, as a plain state dict has it: PEFT reads such a file as ours does, or not at all."""
    base, adapter = adapter_on("llama", PLAIN)
    want = logits(live(base, adapter), inputs("llama", base))
    rewrite_weights(adapter, lambda t: {k.replace(".weight", ".default.weight"): v for k, v in t.items()})
    out, _ = merged(adapter)
    assert float((logits(load(out), inputs("llama", base)) - want).abs().max()) < RIGHT


def test_empty_tensors_of_a_broken_zero3_save(adapter_on: Callable, plan_of: Callable) -> None:
    base, adapter = adapter_on("llama", PLAIN)
    rewrite_weights(adapter, lambda tensors: {k: torch.zeros(0) for k in tensors})
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft_merge(base, adapter)
    with pytest.raises(RefusedError) as refused:
        plan_of(adapter)
    assert "ZeRO-3" in refused.value.advice
