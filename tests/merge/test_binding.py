"""Whatever names and shapes show to be wrong is refused while planning; every adapter tensor has exactly one place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import SiglipVisionConfig, SiglipVisionModel

from bot.errors import InputError, RefusedError
from tests.merge.oracle import compare
from tests.tiny.adapters import LORA_VARIANTS, edit_config, rewrite_weights

PLAIN = LORA_VARIANTS["plain"]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def refusal(call: Callable[[], object]) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        call()
    return refused.value


def test_every_adapter_tensor_is_bound_exactly_once(adapter_on: Callable, plan_of: Callable) -> None:
    from safetensors import safe_open

    for variant in ("all_linear", "dora", "save_embed_and_head", "embedding_and_head"):
        _, adapter = adapter_on("llama", LORA_VARIANTS[variant], name=variant)
        plan = plan_of(adapter)
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            assert sorted(k for b in plan.bindings for k in b.adapter) == sorted(file.keys())


def test_layers_to_transform_narrower_than_the_weights(adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("llama", PLAIN)
    edit_config(adapter, layers_to_transform=[0])
    assert refusal(lambda: plan_of(adapter)).code == "adapter-tensor-left-over"


def test_a_missing_tensor(adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("llama", PLAIN)
    rewrite_weights(adapter, lambda tensors: {k: v for k, v in tensors.items() if k != f"{Q0}.lora_B.weight"})
    error = refusal(lambda: plan_of(adapter))
    assert error.code == "adapter-tensor-missing"
    assert f"{Q0}.lora_B.weight" in error.sentence


def test_dora_without_magnitudes(adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("llama", PLAIN)
    edit_config(adapter, use_dora=True)
    error = refusal(lambda: plan_of(adapter))
    assert error.code == "contradiction"
    assert "magnitude" in error.sentence


def test_magnitudes_without_dora(adapter_on: Callable, plan_of: Callable) -> None:
    """PEFT drops them without a word; they say what was trained."""
    _, adapter = adapter_on("llama", LORA_VARIANTS["dora"])
    intact = plan_of(adapter)
    edit_config(adapter, use_dora=False)
    plan = plan_of(adapter)
    assert plan.bindings == intact.bindings
    assert [p.key for p in plan.patches if p.rule == "dora"] == ["use_dora"]


@pytest.mark.parametrize("rank", [2, 8])
def test_a_rank_that_is_not_the_weights(rank: int, adapter_on: Callable, plan_of: Callable) -> None:
    """PEFT raises; the rows of lora_A say what it was."""
    _, adapter = adapter_on("llama", PLAIN)
    intact = plan_of(adapter)
    edit_config(adapter, r=rank)
    plan = plan_of(adapter)
    assert plan.bindings == intact.bindings
    assert [(p.before, p.after) for p in plan.patches if p.rule == "rank"] == [(rank, PLAIN.get("r", 4))]


@pytest.mark.parametrize(("bias", "architecture"), [("all", "opt"), ("lora_only", "gpt2")])
def test_biases_that_were_trained_and_are_in_no_file(
    bias: str, architecture: str, adapter_on: Callable, plan_of: Callable
) -> None:
    """PEFT loads such a file without a word. For years it has not saved what lora_only had trained: that is told."""
    _, adapter = adapter_on(architecture, {"r": 4, "bias": bias, "task_type": "CAUSAL_LM"})
    assert not any("biases" in note for note in plan_of(adapter).notes)
    rewrite_weights(adapter, lambda tensors: {k: v for k, v in tensors.items() if not k.endswith("bias")})
    if bias == "lora_only":
        assert any("trained 8 biases, and the file holds none" in note for note in plan_of(adapter).notes)
    else:
        assert refusal(lambda: plan_of(adapter)).code == "adapter-tensor-missing"


def test_an_adapter_of_another_model(base_of: Callable, adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("llama", PLAIN)
    assert refusal(lambda: plan_of(adapter, base=str(base_of("gpt2")))).code == "adapter-does-not-fit"


def test_an_adapter_of_a_wider_model(
    tmp_path: Path, base_of: Callable, adapter_on: Callable, plan_of: Callable
) -> None:
    _, adapter = adapter_on("llama", PLAIN)
    assert refusal(lambda: plan_of(adapter, base=str(base_of("qwen2_moe")))).exit_code == 3


def test_a_lost_head(adapter_on: Callable, plan_of: Callable) -> None:
    """A classifier on a base without one: what was trained is not in the file, and would be random at every load."""
    _, adapter = adapter_on("bert_model", LORA_VARIANTS["token_cls"])
    rewrite_weights(adapter, lambda tensors: {k: v for k, v in tensors.items() if "classifier" not in k})
    assert refusal(lambda: plan_of(adapter)).code in {"adapter-tensor-missing", "weights-missing"}


def test_a_base_that_lacks_a_layer(tmp_path: Path, adapter_on: Callable, plan_of: Callable) -> None:
    """transformers would make one up at each load, another one each time."""
    base, adapter = adapter_on("llama", PLAIN)
    shutil.copytree(base, tmp_path / "short")
    config = json.loads((base / "config.json").read_text())
    longer = config | {"num_hidden_layers": config["num_hidden_layers"] + 1}
    (tmp_path / "short" / "config.json").write_text(json.dumps(longer))
    edit_config(adapter, base_model_name_or_path=str(tmp_path / "short"))
    assert refusal(lambda: plan_of(adapter)).code == "adapter-tensor-missing"
    edit_config(
        adapter, layers_to_transform=list(range(config["num_hidden_layers"]))
    )  # the others were not trained
    error = refusal(lambda: plan_of(adapter))
    assert error.code == "weights-missing"
    assert f"model.layers.{config['num_hidden_layers']}." in error.sentence


def test_a_base_that_the_embedding_was_not_trained_on(
    base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    """PEFT stores a targeted embedding's base with the adapter, which gives a wrong base away."""
    _, adapter = adapter_on("llama", LORA_VARIANTS["embedding"])
    other = base_of("llama", seed=7)
    assert refusal(lambda: merged(adapter, base=str(other))).code == "base-differs"


@pytest.mark.parametrize("variant", ["weight_tying", "weight_tying_both", "weight_tying_save"])
def test_a_tied_adapter_is_merged_once_and_stays_tied(
    variant: str, adapter_on: Callable, merged: Callable
) -> None:
    base, adapter = adapter_on("llama_tied", LORA_VARIANTS[variant])
    out, plan = merged(adapter)
    assert not plan.added
    assert not plan.config_edits
    assert compare("llama_tied", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5


def test_twins_that_differ_are_a_contradiction(adapter_on: Callable, merged: Callable) -> None:
    _, adapter = adapter_on("llama_tied", LORA_VARIANTS["weight_tying_both"])
    rewrite_weights(
        adapter, lambda tensors: {k: v * 2 if "lm_head.lora_B" in k else v for k, v in tensors.items()}
    )
    assert refusal(lambda: merged(adapter)).code == "contradiction"


def test_an_architecture_that_transformers_does_not_know(
    tmp_path: Path, base_of: Callable, adapter_on: Callable, plan_of: Callable
) -> None:
    _, adapter = adapter_on("llama", PLAIN)
    base = tmp_path / "remote-code"
    base.mkdir()
    for path in base_of("llama").iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    text = (base / "config.json").read_text().replace('"model_type": "llama"', '"model_type": "my-llama"')
    (base / "config.json").write_text(text)
    assert refusal(lambda: plan_of(adapter, base=str(base))).code == "architecture-unknown"


def test_a_config_that_its_class_does_not_accept(
    tmp_path: Path, base_of: Callable, adapter_on: Callable, plan_of: Callable
) -> None:
    _, adapter = adapter_on("llama", PLAIN)
    base = tmp_path / "broken"
    base.mkdir()
    for path in base_of("llama").iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    text = (base / "config.json").read_text().replace('"hidden_size": ', '"hidden_size": "wide", "was": ')
    (base / "config.json").write_text(text)
    with pytest.raises((InputError, RefusedError)) as error:
        plan_of(adapter, base=str(base))
    assert error.value.exit_code in {2, 3}


def test_attention_of_torch_is_refused(tmp_path: Path, plan_of: Callable) -> None:
    """PEFT adds the delta of its out_proj twice, live as well: what W + delta would be is not what was trained."""
    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    SiglipVisionModel(config).save_pretrained(tmp_path / "base")
    settings = LoraConfig(r=4, target_modules=["head.attention"], init_lora_weights=False)
    get_peft_model(SiglipVisionModel.from_pretrained(tmp_path / "base"), settings).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(RefusedError) as refusal:
        plan_of(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert refusal.value.code == "multihead-attention"
