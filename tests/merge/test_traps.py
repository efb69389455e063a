"""Cases that a careful look found: each was merged wrong, or refused for no good reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bot.errors import RefusedError
from bot.merge.reinit import take_out
from tests.merge.oracle import compare
from tests.merge.test_vocabulary import grown
from tests.tiny.adapters import LORA_VARIANTS, edit_config, live
from tests.tiny.models import inputs, load, logits

SMALL = LORA_VARIANTS["plain"]
QV = ["q_proj", "v_proj"]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as refusal:
        call()
    return refusal.value.code


@pytest.mark.usefixtures("exact_svd")
@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("more", [{"use_dora": True}, {"target_modules": [*QV, "embed_tokens"]}])
def test_a_residual_is_taken_out_under_dora_and_beside_embeddings(
    init: str, more: dict, adapter_on: Callable, merged: Callable
) -> None:
    base, adapter = adapter_on("llama", {**SMALL, "init_lora_weights": init, **more})
    out, plan = merged(adapter, validation="tensors")
    assert compare("llama", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5


@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_dora_on_what_stays_tied_is_refused(
    targets: list[str], adapter_on: Callable, merged: Callable
) -> None:
    config = {**SMALL, "target_modules": targets, "ensure_weight_tying": True, "use_dora": True}
    _, adapter = adapter_on("llama_tied", config)
    assert refused(lambda: merged(adapter)) == "tied-weights"


def test_an_embedding_with_a_forward_of_its_own_is_refused(adapter_on: Callable, merged: Callable) -> None:
    """OPT's positions are offset by two in the base, and not in PEFT's delta."""
    _, adapter = adapter_on("opt", {**SMALL, "target_modules": ["q_proj", "embed_positions"]})
    assert refused(lambda: merged(adapter)) == "module-not-plain"


def test_the_first_layer_alone_may_be_written_as_zero(adapter_on: Callable, merged: Callable) -> None:
    _, adapter = adapter_on("llama", SMALL)
    edit_config(adapter, layers_to_transform=0)
    assert refused(lambda: merged(adapter)) == "adapter-tensor-left-over"


@pytest.mark.parametrize("architecture", ["llama_tied", pytest.param("llama", marks=pytest.mark.slow)])
@pytest.mark.parametrize("saved", [None, ["embed_tokens", "lm_head"]])
def test_a_grown_vocabulary_passes_every_check(
    architecture: str, saved: list[str] | None, base_of: Callable, merged: Callable, tmp_path: Path
) -> None:
    adapter, _, _ = grown(base_of(architecture), tmp_path / "adapter", saved=saved, embeddings="auto")
    merged(adapter, validation="full")


@pytest.mark.parametrize("architecture", ["whisper", "clip"])
def test_a_model_without_prompts_is_not_said_to_be_wrong(
    architecture: str, adapter_on: Callable, merged: Callable
) -> None:
    _, adapter = adapter_on(architecture, {"r": 4, "lora_alpha": 8})
    merged(adapter, validation="full")


def test_null_is_false(adapter_on: Callable, merged: Callable) -> None:
    base, adapter = adapter_on("llama", SMALL)
    edit_config(adapter, use_dora=None, use_rslora=None, fan_in_fan_out=None, lora_bias=None)
    out, plan = merged(adapter)
    assert compare("llama", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5


@pytest.mark.parametrize(
    "variant", ["patterns", *(pytest.param(n, marks=pytest.mark.slow) for n in ("plain", "embedding"))]
)
def test_ranks_may_be_written_as_whole_floats(variant: str, adapter_on: Callable, merged: Callable) -> None:
    """PEFT itself fails over them; the live adapter is asked before they are written so."""
    base, adapter = adapter_on("llama", LORA_VARIANTS[variant])
    want = logits(live(base, adapter), inputs("llama", base))
    ranks = {k: float(v) for k, v in (LORA_VARIANTS[variant].get("rank_pattern") or {}).items()}
    edit_config(adapter, r=4.0, rank_pattern=ranks)
    out, plan = merged(adapter, validation="full")
    assert any((p.key, p.before, p.after) == ("r", 4.0, 4) for p in plan.patches)
    got = logits(load(out, dtype=torch.float32), inputs("llama", base))
    assert float((got - want).abs().max()) < 2e-5


def test_a_tokenizer_as_long_as_the_bases_own_is_merged(
    base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """Gemma 3 1B's has one token more than the model has rows; every adapter of it brings that tokenizer along."""
    base = tmp_path / "base"
    shutil.copytree(base_of("llama"), base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(base)
    _, adapter = adapter_on("llama", SMALL, base=base)
    tokenizer.save_pretrained(adapter)
    out, plan = merged(adapter, validation="full")
    assert compare("llama", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5
    assert any("as the base's own" in note for note in plan.notes)
    tokenizer.add_tokens(["<one_more>"])
    tokenizer.save_pretrained(adapter)
    assert refused(lambda: merged(adapter, out=tmp_path / "again")) == "tokenizer-too-long"


@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (64, 64)])
@pytest.mark.parametrize("rank", [4, 200])
def test_what_pissa_takes_out_is_exact(shape: tuple[int, int], rank: int) -> None:
    """Closer to float64's decomposition than float32's is; a rank above the matrix's own leaves nothing."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    want = weight.double() - left[:, :rank] * values[:rank] @ right[:rank]
    found = weight.clone()
    take_out(found, rank=rank)
    assert (found - want).abs().max() < 4e-7 * weight.abs().max()
    assert torch.linalg.matrix_rank(found, atol=1e-5) == max(0, min(shape) - rank)
