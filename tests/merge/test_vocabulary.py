"""Adapters with added tokens: larger embeddings and heads, and the tokenizer that goes with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bot.errors import RefusedError
from tests.merge.oracle import read_tensors

ADDED = ["<|start|>", "<|end|>", "<|tool|>"]


def grown(
    base: Path,
    folder: Path,
    *,
    saved: list[str] | None,
    embeddings: bool | str | None = None,
    targets: tuple[str, ...] = ("q_proj",),
    tokens: list[int] | None = None,
) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """An adapter trained with three more tokens, what the live model answers, and to which question."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ADDED})
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=list(targets),
        modules_to_save=saved,
        task_type="CAUSAL_LM",
        trainable_token_indices=tokens,
    )
    tuned = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if any(
                mark in name for mark in ("lora_B", "lora_embedding_A", "modules_to_save", "tokens_delta")
            ):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    tuned.save_pretrained(folder, save_embedding_layers=(saved is None) if embeddings is None else embeddings)
    tokenizer.save_pretrained(folder)
    ids = torch.tensor([[len(tokenizer) - 3, 20, 21, len(tokenizer) - 1]])
    with torch.no_grad():
        return folder, tuned.eval()(ids).logits, ids


@pytest.mark.parametrize("architecture", ["llama", "llama_tied"])
@pytest.mark.parametrize("saved", [None, ["embed_tokens", "lm_head"]])
def test_more_tokens(
    architecture: str, saved: list[str] | None, base_of: Callable, merged: Callable, tmp_path: Path
) -> None:
    base = base_of(architecture)
    adapter, want, ids = grown(base, tmp_path / "adapter", saved=saved)
    rows = json.loads((base / "config.json").read_text())["vocab_size"] + len(ADDED)
    out, plan = merged(adapter)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == rows
    assert read_tensors(out)["model.embed_tokens.weight"].shape[0] == rows
    assert {s.origin for s in plan.sidecars if s.name == "tokenizer.json"} == {"adapter"}
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, want, atol=2e-5)
    assert len(AutoTokenizer.from_pretrained(out)) == rows


MORE = {
    "lora": {"targets": ("q_proj", "embed_tokens"), "saved": ["lm_head"]},
    "tokens": {"tokens": [384, 385, 386], "saved": None},
}


@pytest.mark.parametrize("way", MORE)
def test_more_tokens_under_an_adapter_on_the_embeddings(
    way: str, base_of: Callable, merged: Callable, tmp_path: Path
) -> None:
    """The rows that the base has not come from the copy of the embeddings that PEFT saves with the adapter."""
    adapter, want, ids = grown(base_of("llama"), tmp_path / "adapter", embeddings="auto", **MORE[way])
    out, _ = merged(adapter, validation="full")
    with torch.no_grad():
        got = AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits
    assert torch.allclose(got, want, atol=2e-5)


def test_on_a_head_that_is_not_saved_that_is_refused(
    base_of: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    """The head's own rows for the new tokens are in no file; a tied one would have to follow the copy."""
    for architecture in ("llama", "llama_tied"):
        place = tmp_path / architecture
        adapter, *_ = grown(
            base_of(architecture), place, saved=None, embeddings="auto", targets=("q_proj", "embed_tokens")
        )
        with pytest.raises(RefusedError) as refusal:
            plan_of(adapter)
        assert refusal.value.code == "base-does-not-fit"


def test_a_tokenizer_that_is_longer_than_the_embeddings_is_refused(
    base_of: Callable, adapter_on: Callable, plan_of: Callable
) -> None:
    base, adapter = adapter_on("llama", {"r": 4, "target_modules": ["q_proj"]})
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(ADDED)
    tokenizer.save_pretrained(adapter)
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter)
    assert refusal.value.code == "tokenizer-too-long"


def test_a_padded_vocabulary_is_not_cut(base_of: Callable, plan_of: Callable, tmp_path: Path) -> None:
    base = base_of("llama")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(200)
    tuned = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    )
    tuned.save_pretrained(tmp_path / "adapter")
    assert isinstance(tuned, PeftModel)
    with pytest.raises(RefusedError) as refusal:
        plan_of(tmp_path / "adapter", base=str(base))
    assert refusal.value.code == "shape-mismatch"


@pytest.mark.parametrize("dora", [False, True])
def test_a_copy_of_the_embeddings_in_fewer_digits_is_not_what_is_merged_into(
    dora: bool, adapter_on: Callable, merged: Callable
) -> None:
    """PEFT saves the base's embeddings beside an adapter of them, here in 16 bits, and loads them over the base's."""
    config = {"r": 2, "target_modules": ["embed_tokens", "q_proj"], "use_dora": dora}
    base, adapter = adapter_on("llama", config, dtype=torch.bfloat16)
    out, _ = merged(adapter, validation="full")
    if not dora:
        stored = load_file(adapter / "adapter_model.safetensors")
        name = "base_model.model.model.embed_tokens.lora_embedding_"
        delta = 4 * (stored[f"{name}B"].double() @ stored[f"{name}A"].double()).T
        key = "model.embed_tokens.weight"
        wanted = read_tensors(base)[key].double() + delta
        assert (read_tensors(out)[key] - wanted).abs().max() < 1e-6
