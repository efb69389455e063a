"""Adapters trained on the text part of an image-text model, loaded alone as transformers does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel

from bot.errors import RefusedError
from tests.merge.oracle import read_tensors
from tests.tiny.adapters import make_config, perturb
from tests.tiny.models import inputs, logits

PARTS = {
    "qwen3_5": "Qwen3_5ForCausalLM",
    "llama4": "Llama4ForCausalLM",
    "mllama": "MllamaForCausalLM",
}


def text_adapter(folder: Path, base: Path, *, model_class: str, **config: object) -> Path:
    """An adapter trained on the text class, which transformers loads from the whole model's folder."""
    from peft import get_peft_model

    model = getattr(transformers, model_class).from_pretrained(base)
    settings = make_config({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "o_proj"], **config})
    tuned = get_peft_model(model, settings)
    perturb(tuned, seed=1)
    tuned.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("qwen3_5", "CAUSAL_LM"),
        *(pytest.param(a, None, marks=pytest.mark.slow) for a in sorted(PARTS)),
        *(pytest.param(a, "CAUSAL_LM", marks=pytest.mark.slow) for a in sorted(PARTS.keys() - {"qwen3_5"})),
    ],
)
def test_the_text_part(
    architecture: str, task: str | None, base_of: Callable, merged: Callable, tmp_path: Path
) -> None:
    base, name = base_of(architecture), PARTS[architecture]
    adapter = text_adapter(tmp_path / "adapter", base, model_class=name, task_type=task)
    out, plan = merged(adapter, validation="full")
    kind = getattr(transformers, name)
    batch = inputs(architecture, base)
    fresh = kind.from_pretrained(base, dtype=torch.float32).eval()
    before = logits(fresh, batch)
    want = logits(PeftModel.from_pretrained(fresh, adapter).eval(), batch)
    part, info = kind.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    whole = transformers.AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    assert float((want - before).abs().max()) > 0.05
    assert float((logits(part.eval(), batch) - want).abs().max()) < 2e-5
    assert float((logits(whole, batch) - want).abs().max()) < 2e-5
    assert read_tensors(out).keys() == read_tensors(base).keys()
    assert (out / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert any("text part" in note for note in plan.notes)


def test_a_text_part_that_transformers_does_not_find_in_the_whole_is_refused(
    base_of: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    """Gemma3ForCausalLM finds none of its weights in an image-text checkpoint, and would be random."""
    base = base_of("gemma3_vl")
    adapter = text_adapter(tmp_path / "adapter", base, model_class="Gemma3ForCausalLM", task_type="CAUSAL_LM")
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter)
    assert refusal.value.code == "adapter-does-not-fit"
