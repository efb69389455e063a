"""AdaLoRA with ranks pruned by its own schedule, as every finished training of it leaves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from bot.errors import RefusedError
from tests.merge.training import BATCH, IDS
from tests.tiny.adapters import edit_config
from tests.tiny.models import logits

STEPS = 12
CONFIG = {
    "task_type": "CAUSAL_LM",
    "init_r": 6,
    "target_r": 2,
    "tinit": 2,
    "tfinal": 3,
    "deltaT": 1,
    "total_step": STEPS,
    "lora_alpha": 12,
    "target_modules": ["q_proj", "v_proj", "down_proj"],
}


@pytest.fixture
def pruned(tmp_path: Path, base_of: Callable) -> tuple[Path, Path, torch.Tensor]:
    """Base, adapter, and what the model answered at the end of its training."""
    base, folder = base_of("llama"), tmp_path / "adapter"
    torch.manual_seed(0)
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), AdaLoraConfig(**CONFIG)
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step + 1)
    want = logits(model.eval(), BATCH)
    model.save_pretrained(folder)
    edit_config(folder, base_model_name_or_path=str(base))
    return base, folder, want


def test_it_is_the_model_that_was_trained(pruned: tuple, merged: Callable) -> None:
    base, adapter, want = pruned
    masks = json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"]
    assert len({sum(mask) for mask in masks.values()}) > 1
    out, _ = merged(adapter, validation="full")
    got = logits(AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval(), BATCH)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    live = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter
    ).eval()
    assert (want - logits(plain, BATCH)).abs().max() > 0.1
    assert (got - want).abs().max() < 2e-5
    assert (got - logits(live, BATCH)).abs().max() < 2e-5


def _first(masks: dict[str, list[bool]]) -> str:
    return next(iter(masks))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda masks: {}, "shape-mismatch"),
        (lambda masks: masks | {_first(masks): [True] * 6}, "shape-mismatch"),
        (lambda masks: masks | {_first(masks): masks[_first(masks)] + [True]}, "adapter-does-not-fit"),
        (lambda masks: masks | {"model.nowhere.lora_E": [True] * 6}, "adapter-does-not-fit"),
        (lambda masks: masks | {"model.layers.0.mlp.up_proj.lora_E": [True] * 6}, "adapter-does-not-fit"),
        (lambda masks: {name.removesuffix(".lora_E"): mask for name, mask in masks.items()}, "adapter-does-not-fit"),
        (lambda masks: {name: sum(mask) for name, mask in masks.items()}, "config-value"),
    ],
)  # fmt: skip
def test_masks_that_are_not_those_of_the_tensors_are_refused(
    pruned: tuple, merged: Callable, change: Callable, code: str
) -> None:
    _, adapter, _ = pruned
    masks = json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"]
    edit_config(adapter, rank_pattern=change(masks))
    with pytest.raises(RefusedError) as refusal:
        merged(adapter)
    assert refusal.value.code == code


def test_names_that_end_with_the_adapters_are_read_too(pruned: tuple, merged: Callable) -> None:
    _, adapter, want = pruned
    masks = json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"]
    edit_config(adapter, rank_pattern={f"{name}.default": mask for name, mask in masks.items()})
    out, _ = merged(adapter)
    got = logits(AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval(), BATCH)
    assert (got - want).abs().max() < 2e-5
