"""A LoRA on the usual modules of every architecture, and embeddings and heads where they are tied."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import pytest
import torch

from bot.errors import RefusedError
from tests.merge.oracle import compare, read_tensors
from tests.tiny.adapters import LORA_VARIANTS, edit_config, rewrite_weights
from tests.tiny.architectures import SLOW
from tests.tiny.models import ARCHITECTURES

TASKS = {
    "llama_seqcls": "SEQ_CLS",
    "bert_seqcls": "SEQ_CLS",
    "roberta_seqcls": "SEQ_CLS",
    "bert_tokcls": "TOKEN_CLS",
    "bert_model": "FEATURE_EXTRACTION",
    "t5": "SEQ_2_SEQ_LM",
    **dict.fromkeys(("mt5", "pegasus", "marian", "t5gemma"), "SEQ_2_SEQ_LM"),
    "bart": "SEQ_2_SEQ_LM",
}


def some(names: Iterable[str]) -> list[object]:
    """The names as parameters, those that are only many marked slow."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in sorted(names)]


def config(architecture: str, **keys: object) -> dict:
    return {"r": 4, "lora_alpha": 8, "task_type": TASKS.get(architecture), **keys}


@pytest.mark.parametrize("architecture", some(ARCHITECTURES))
def test_every_architecture(architecture: str, adapter_on: Callable, merged: Callable) -> None:
    base, adapter = adapter_on(architecture, config(architecture))
    out, plan = merged(adapter)
    difference = compare(architecture, base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05
    assert read_tensors(out).keys() == read_tensors(base).keys()


@pytest.mark.parametrize("architecture", some(a for a, e in ARCHITECTURES.items() if e.parameters))
def test_experts(architecture: str, adapter_on: Callable, merged: Callable) -> None:
    """Experts that the model stacks and the checkpoint stores one by one (or stacked, or transposed)."""
    entry = ARCHITECTURES[architecture]
    base, adapter = adapter_on(architecture, config(architecture, target_parameters=list(entry.parameters)))
    out, plan = merged(adapter)
    difference = compare(architecture, base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05
    before, after = read_tensors(base), read_tensors(out)
    assert {k: (v.shape, v.dtype) for k, v in before.items()} == {
        k: (v.shape, v.dtype) for k, v in after.items()
    }


@pytest.mark.parametrize(
    ("architecture", "targets", "added"),
    [
        ("gpt2", ["c_attn", "wte"], {"lm_head.weight"}),
        ("gpt2", ["c_attn", "lm_head"], {"lm_head.weight"}),
        ("opt", ["q_proj", "embed_tokens"], {"lm_head.weight"}),
        (
            "gemma3",
            ["q_proj", "embed_tokens"],
            {"lm_head.weight"},
        ),  # its embeddings are scaled when they are read
        ("distilbert", ["q_lin", "word_embeddings"], {"vocab_projector.weight"}),
        ("bert_model", ["query", "word_embeddings"], set()),
        (
            "bart",
            ["q_proj", "lm_head"],
            {"lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"},
        ),
    ],
)
def test_embeddings_and_heads(
    architecture: str, targets: list[str], added: set[str], adapter_on: Callable, merged: Callable
) -> None:
    """A head that no longer follows its embeddings becomes a tensor of its own."""
    base, adapter = adapter_on(architecture, config(architecture, target_modules=targets))
    out, plan = merged(adapter)
    assert compare(architecture, base=base, adapter=adapter, out=out, plan=plan).error < 2e-5
    assert read_tensors(out).keys() - read_tensors(base).keys() == added
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is bool(not added)


@pytest.mark.parametrize(
    ("target", "bias"),
    [
        ("word_embeddings", "none"),
        *(pytest.param("decoder", b, marks=pytest.mark.slow) for b in ("none", "all")),
    ],
)
def test_what_else_was_tied_is_stored_too(
    target: str, bias: str, adapter_on: Callable, merged: Callable
) -> None:
    """The bias of a masked head shares its storage with the decoder's, and one flag parts both."""
    settings = config("xlm_roberta", target_modules=["query", target], bias=bias)
    base, adapter = adapter_on("xlm_roberta", settings)
    out, plan = merged(adapter, validation="full")
    difference = compare("xlm_roberta", base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05
    assert {a.name for a in plan.added} == {"lm_head.decoder.weight", "lm_head.decoder.bias"}


@pytest.mark.parametrize(
    "variant",
    ["embedding", "lm_head", "embedding_and_head", "save_lm_head", "save_embed_and_head", "dora_embedding"],
)
def test_tied_llama(variant: str, base_of: Callable, adapter_on: Callable, merged: Callable) -> None:
    """PEFT's own merge writes the shared storage and is wrong in all of these."""
    base = base_of("llama_tied", shards=3)
    _, adapter = adapter_on("llama_tied", LORA_VARIANTS[variant], base=base)
    out, plan = merged(adapter)
    difference = compare("llama_tied", base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.5
    assert [a.name for a in plan.added] == ["lm_head.weight"]
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("target", ["lm_head", "shared"])
def test_t5_cannot_store_its_head_apart(target: str, adapter_on: Callable, merged: Callable) -> None:
    _, adapter = adapter_on("t5", config("t5", target_modules=["q", target]))
    with pytest.raises(RefusedError) as refusal:
        merged(adapter)
    assert refusal.value.code == "tied-weights"


@pytest.mark.parametrize("architecture", ["mamba", "jamba"])
def test_a_module_that_is_never_called_is_refused(
    architecture: str, adapter_on: Callable, merged: Callable
) -> None:
    """Their mixers read dt_proj.weight: the live adapter is silent there, and PEFT's merge is not."""
    _, adapter = adapter_on(architecture, config(architecture, target_modules=["in_proj", "dt_proj"]))
    with pytest.raises(RefusedError) as refusal:
        merged(adapter)
    assert refusal.value.code == "module-not-called"


@pytest.mark.parametrize(
    ("architecture", "targets", "silent"),
    [
        ("jamba", ["in_proj", "dt_proj"], ".dt_proj."),
        ("siglip", ["fc1", "out_proj"], ".head.attention.out_proj."),
    ],
)
def test_a_module_that_is_never_called_stays_as_it_is(
    architecture: str, targets: list[str], silent: str, adapter_on: Callable, merged: Callable
) -> None:
    """No gradient reaches it: after training its delta is what it was at first, zero."""
    base, adapter = adapter_on(architecture, config(architecture, target_modules=targets))
    rewrite_weights(
        adapter, lambda found: {k: v * (silent not in k or "lora_B" not in k) for k, v in found.items()}
    )
    out, plan = merged(adapter, validation="full")
    difference = compare(architecture, base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.01
    before, after = read_tensors(base), read_tensors(out)
    assert all(torch.equal(before[k], after[k]) for k in before if silent in f".{k}")
    assert any("never called" in note for note in plan.notes)


@pytest.mark.parametrize("key", ["use_dora", "lora_bias"])
def test_where_zero_factors_are_no_zero_change_it_is_refused_in_the_plan(
    key: str, adapter_on: Callable, plan_of: Callable
) -> None:
    _, adapter = adapter_on("jamba", config("jamba", target_modules=["dt_proj"], **{key: True}))
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter)
    assert refusal.value.code == "module-not-called"


def test_where_the_data_has_chosen_the_first_factors_they_are_looked_at_as_well(
    adapter_on: Callable, merged: Callable
) -> None:
    """EVA sets lora_A by the data, and begins at a change of zero all the same."""
    base, adapter = adapter_on("jamba", config("jamba", target_modules=["in_proj", "dt_proj"]))
    edit_config(adapter, init_lora_weights="eva")
    rewrite_weights(adapter, lambda found: {k: v * ("dt_proj.lora_B" not in k) for k, v in found.items()})
    out, plan = merged(adapter)
    before, after = read_tensors(base), read_tensors(out)
    assert all(torch.equal(before[k], after[k]) for k in before if ".dt_proj." in k)
    assert any("never called" in note for note in plan.notes)
