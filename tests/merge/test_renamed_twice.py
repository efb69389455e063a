"""Adapters whose tensors have today's names, which PEFT renames again as it loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import get_peft_model
from transformers import LagunaConfig, LagunaForCausalLM

from tests.merge.training import BATCH, distance
from tests.tiny.adapters import edit_config, live, make_config, perturb
from tests.tiny.architectures import DECODER, EXPERTS
from tests.tiny.models import fill, logits


def test_names_that_a_rule_fits_twice(merged: Callable, tmp_path: Path) -> None:
    """Laguna's checkpoints say shared_expert, its modules shared_experts: the rule fits both, and PEFT drops these."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    sizes: dict[str, Any] = DECODER | EXPERTS | {"head_dim": 8, "shared_expert_intermediate_size": 24}
    model: Any = LagunaForCausalLM(LagunaConfig(**sizes)).eval()
    fill(model, seed=0)
    model.save_pretrained(base)
    config = make_config({"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "down_proj"]})
    tuned = get_peft_model(model, config)
    perturb(tuned, seed=1)
    tuned.save_pretrained(str(adapter))
    edit_config(adapter, base_model_name_or_path=str(base))
    want = logits(tuned.eval(), BATCH)
    assert float((logits(live(base, adapter), BATCH) - want).abs().max()) > 1e-2  # what PEFT makes of it
    out, _ = merged(adapter, validation="full")
    assert distance(out, want) < 2e-5
