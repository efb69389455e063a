"""Bases as they lie on disk: in one file or many, with or without an index, dtypes mixed, tied tensors twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bot.errors import InputError, RefusedError
from bot.merge.model import load_config
from bot.weights.layout import INDEX
from tests.merge.oracle import compare, read_tensors
from tests.tiny.adapters import LORA_VARIANTS
from tests.tiny.models import load

PLAIN = LORA_VARIANTS["plain"]
VARIANTS = ["plain", "save_embed_and_head"]


def copied(base: Path, out: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    """A base to be written to; with other tensors, in one file."""
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors*") if tensors else None)
    if tensors:
        whole = {k: v.contiguous().clone() for k, v in tensors.items()}
        save_file(whole, out / "model.safetensors", metadata={"format": "pt"})
    return out


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_shards_and_index_do_not_change_the_result(
    variant: str, base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    single, sharded = base_of("llama", dtype="bfloat16"), base_of("llama", dtype="bfloat16", shards=3)
    _, adapter = adapter_on("llama", LORA_VARIANTS[variant], base=single)
    want = read_tensors(merged(adapter, out=tmp_path / "want")[0])
    lost = copied(sharded, tmp_path / "lost-index")
    (lost / INDEX).unlink()
    both = copied(sharded, tmp_path / "both")
    shutil.copy(single / "model.safetensors", both)
    (both / "model-00001-of-00003.safetensors").write_bytes(b"an earlier save, which loaders pass over")
    for base, files in ((sharded, 3), (lost, 3), (both, 1)):
        out, plan = merged(adapter, base=str(base), out=tmp_path / f"out-{base.name}", validation="tensors")
        assert same(read_tensors(out), want)
        assert len(plan.shards) == files
        assert (out / INDEX).exists() is (files == 3)
        load(out)


def test_a_missing_shard_is_named(
    base_of: Callable, adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    base = copied(base_of("llama", shards=3), tmp_path / "base")
    _, adapter = adapter_on("llama", PLAIN)
    (base / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match="lacks the shard model-00002-of-00003"):
        plan_of(adapter, base=str(base))
    (base / INDEX).unlink()
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter, base=str(base))
    assert refusal.value.code == "base-not-safetensors"


def test_an_index_that_lies_is_not_believed(
    base_of: Callable, adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    base = copied(base_of("llama", shards=3), tmp_path / "base")
    _, adapter = adapter_on("llama", PLAIN)
    index = json.loads((base / INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    index["weight_map"]["lm_head.weight"] = next(
        f for f in files if f != index["weight_map"]["lm_head.weight"]
    )
    (base / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match="do not agree"):
        plan_of(adapter, base=str(base))


@pytest.mark.parametrize("variant", [*VARIANTS, "dora", "embedding"])
def test_every_tensor_keeps_its_dtype(
    variant: str, base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    kinds = [torch.float32, torch.bfloat16, torch.float16]
    tensors = read_tensors(base_of("llama"))
    mixed = {k: v.to(kinds[i % 3]) for i, (k, v) in enumerate(sorted(tensors.items()))}
    base = copied(base_of("llama"), tmp_path / "base", mixed)
    wide = copied(base_of("llama"), tmp_path / "wide", {k: v.float() for k, v in mixed.items()})
    _, adapter = adapter_on("llama", LORA_VARIANTS[variant], base=wide)
    out, _ = merged(adapter, base=str(base), validation="tensors")
    found = read_tensors(out)
    assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in mixed.items()}
    want = read_tensors(merged(adapter, base=str(wide), out=tmp_path / "want")[0])
    assert all(torch.equal(found[k], want[k].to(found[k].dtype)) for k in found)


def test_other_dtypes_pass_by_untouched_and_float8_without_a_word_is_refused(
    base_of: Callable, adapter_on: Callable, merged: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    tensors = read_tensors(base_of("llama"))
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors |= {"extra.scale": torch.arange(5, dtype=torch.int8), "extra.flag": torch.tensor([True, False])}
    base = copied(base_of("llama"), tmp_path / "base", tensors)
    _, apart = adapter_on("llama", PLAIN | {"target_modules": ["v_proj"]}, name="apart")
    out, _ = merged(apart, base=str(base))
    found = read_tensors(out)
    for key in ("extra.scale", "extra.flag"):
        assert found[key].dtype == tensors[key].dtype
        assert torch.equal(found[key].float(), tensors[key].float())
    tensors[name] = tensors[name].to(
        torch.float8_e4m3fn
    )  # with a scale that nothing tells of, or without one?
    silent = copied(base_of("llama"), tmp_path / "silent", tensors)
    with pytest.raises(RefusedError) as refusal:
        plan_of(apart, base=str(silent))
    assert refusal.value.code == "base-quantized"


@pytest.mark.parametrize(
    ("variant", "tied"),
    [
        ("plain", True),
        pytest.param("weight_tying", True, marks=pytest.mark.slow),
        ("embedding", False),
        pytest.param("lm_head", False, marks=pytest.mark.slow),
        ("save_lm_head", False),
    ],
)
def test_tied_tensors_that_lie_on_disk_twice(
    variant: str, tied: bool, base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    once = base_of("llama_tied")
    tensors = read_tensors(once)
    twice = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    base = copied(once, tmp_path / "base", twice)
    _, adapter = adapter_on("llama_tied", LORA_VARIANTS[variant], base=once)
    out, plan = merged(adapter, base=str(base), validation="full")
    difference = compare("llama_tied", base=once, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05
    found = read_tensors(out)
    assert found.keys() == twice.keys()
    assert not plan.added
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"]) is tied
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is tied


def test_tied_tensors_on_disk_that_differ(
    base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """config.json says tied, the file holds two: transformers then keeps them apart, and so does the merge."""
    once = base_of("llama_tied")
    tensors = read_tensors(once)
    twice = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].flip(0)}
    base = copied(once, tmp_path / "base", twice)
    _, adapter = adapter_on("llama_tied", PLAIN, base=base)
    out, plan = merged(adapter, validation="full")
    assert compare("llama_tied", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5
    assert torch.equal(read_tensors(out)["lm_head.weight"], twice["lm_head.weight"])


def test_a_config_that_transformers_does_not_take_is_told_with_its_reason():
    with pytest.raises(InputError, match=r"hidden_size.* expected int, got str") as refusal:
        load_config({"model_type": "llama", "hidden_size": "64"}, name="x")
    assert refusal.value.code == "base-config"
