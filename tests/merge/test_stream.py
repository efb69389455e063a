"""What is written: the base's layout, untouched tensors byte for byte, and the same bytes each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from bot.errors import RefusedError
from tests.merge.oracle import read_tensors
from tests.tiny.adapters import LORA_VARIANTS, edit_config, rewrite_weights
from tests.tiny.models import inputs, logits

PLAIN = LORA_VARIANTS["layers_to_transform"]  # touches two tensors of many


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.safetensors*")}


def names_in_order(path: Path) -> list[str]:
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    return sorted(header.keys() - {"__metadata__"}, key=lambda k: header[k]["data_offsets"])


@pytest.mark.parametrize("shards", [None, 3])
def test_the_base_layout_is_kept(
    shards: int | None, base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    base = base_of("llama", dtype="bfloat16", shards=shards)
    _, adapter = adapter_on("llama", PLAIN, base=base)
    out, plan = merged(adapter)
    assert digests(out).keys() == digests(base).keys()
    for path in base.glob("*.safetensors"):
        assert names_in_order(out / path.name) == names_in_order(path)
        assert (out / path.name).read_bytes()[:4096][:8] == path.read_bytes()[:8]
    before, after = read_tensors(base), read_tensors(out)
    touched = {b.tensor for b in plan.bindings}
    assert len(touched) == 2
    for name, tensor in before.items():
        same = torch.equal(tensor.view(torch.uint8), after[name].view(torch.uint8))
        assert same is (name not in touched), name
        assert tensor.dtype == after[name].dtype
    if shards:
        assert (out / "model.safetensors.index.json").read_bytes() == (
            base / "model.safetensors.index.json"
        ).read_bytes()


def test_the_same_inputs_give_the_same_bytes(adapter_on: Callable, merged: Callable, tmp_path: Path) -> None:
    _, adapter = adapter_on("llama_tied", LORA_VARIANTS["embedding_and_head"])
    first, _ = merged(adapter, out=tmp_path / "one")
    second, _ = merged(adapter, out=tmp_path / "two")
    assert digests(first) == digests(second)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_asked_dtype_rounds_every_tensor_once(
    dtype: str, base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    base = base_of("llama_tied", shards=2)
    _, adapter = adapter_on("llama_tied", LORA_VARIANTS["embedding_and_head"], base=base)
    out, plan = merged(adapter, dtype=dtype)
    after, kind = read_tensors(out), getattr(torch, dtype)
    touched = {b.tensor for b in plan.bindings}
    assert all(t.dtype == kind for t in after.values())
    assert all(torch.equal(after[k], v.to(kind)) for k, v in read_tensors(base).items() if k not in touched)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == dtype
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in after.values())
    assert set(index["weight_map"]) == set(after)


def test_mixed_dtypes_stay_mixed(
    base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    base = tmp_path / "mixed"
    base.mkdir()
    for path in base_of("llama").iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    tensors = load_file(base / "model.safetensors")
    kinds = {"mlp": torch.float16, "q_proj": torch.bfloat16}
    halves = {
        k: v.to(next((d for part, d in kinds.items() if part in k), v.dtype)) for k, v in tensors.items()
    }
    save_file(halves, base / "model.safetensors", metadata={"format": "pt"})
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"], base=base)
    out, _ = merged(adapter)
    assert {k: v.dtype for k, v in read_tensors(out).items()} == {k: v.dtype for k, v in halves.items()}


def test_overflow_in_half_precision_is_refused(
    base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    base = base_of("llama", dtype="float16")
    _, adapter = adapter_on("llama", PLAIN, base=base)
    rewrite_weights(adapter, lambda tensors: {k: v * 3e4 for k, v in tensors.items()})
    with pytest.raises(RefusedError) as refusal:
        merged(adapter)
    assert refusal.value.code == "overflow"
    assert "bfloat16" in refusal.value.advice


def test_nan_is_refused_by_name(adapter_on: Callable, merged: Callable) -> None:
    _, adapter = adapter_on("llama", PLAIN)
    spoil = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
    rewrite_weights(
        adapter, lambda tensors: {k: v * torch.nan if k == spoil else v for k, v in tensors.items()}
    )

    with pytest.raises(RefusedError) as refusal:
        merged(adapter)
    assert refusal.value.code == "adapter-not-finite"
    assert spoil in refusal.value.sentence


@pytest.mark.parametrize("kind", ["zero_b", "alpha", "tiny"])
def test_an_adapter_without_effect_is_refused(
    kind: str, base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    """All-zero B; a scale of zero; and a delta so small that rounding to the base's dtype swallows it."""
    base = base_of("llama", dtype="bfloat16")
    _, adapter = adapter_on("llama", PLAIN, base=base)
    if kind == "alpha":
        edit_config(adapter, lora_alpha=0)
    else:
        factor = 0.0 if kind == "zero_b" else 1e-7
        rewrite_weights(
            adapter, lambda tensors: {k: v * factor if "lora_B" in k else v for k, v in tensors.items()}
        )
    with pytest.raises(RefusedError) as refusal:
        merged(adapter)
    assert refusal.value.code == "no-effect"


def test_a_head_of_another_size_replaces_the_base_head(adapter_on: Callable, merged: Callable) -> None:
    """The base classifies into three labels, the adapter was trained with five."""
    base, adapter = adapter_on("bert_seqcls", {"r": 4, "task_type": "SEQ_CLS"})
    rewrite_weights(
        adapter,
        lambda tensors: {
            k: torch.randn(5, *v.shape[1:], generator=torch.Generator().manual_seed(0))
            if ".classifier." in k
            else v
            for k, v in tensors.items()
        },
    )
    out, plan = merged(adapter)
    assert read_tensors(out)["classifier.weight"].shape[0] == 5
    assert json.loads((out / "config.json").read_text())["id2label"].keys() == set("01234")
    assert not plan.added
    wide = BertForSequenceClassification.from_pretrained(base, num_labels=5, ignore_mismatched_sizes=True)
    batch = inputs("bert_seqcls", base)
    want = logits(PeftModel.from_pretrained(wide, str(adapter)).eval(), batch)
    got = logits(BertForSequenceClassification.from_pretrained(out).eval(), batch)
    assert torch.allclose(want, got, atol=2e-5)


def test_sidecars_are_copied_and_the_config_with_edits_is_the_only_one_written(
    adapter_on: Callable, merged: Callable
) -> None:
    base, adapter = adapter_on("llama", PLAIN)
    out, plan = merged(adapter)
    assert (out / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert {s.name for s in plan.sidecars} >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }
    for sidecar in plan.sidecars:
        assert (out / sidecar.name).read_bytes() == (base / sidecar.name).read_bytes()
    assert (out / "adapter_config.original.json").read_bytes() == (
        adapter / "adapter_config.json"
    ).read_bytes()
    assert not (out / "adapter_config.json").exists()
