"""Short training runs with starts that change the base, as PEFT's own examples do them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.tuners.lora import preprocess_loraga
from peft.tuners.lora.config import CordaConfig
from transformers import AutoModelForCausalLM

from tests.tiny.adapters import edit_config
from tests.tiny.models import logits

IDS = torch.arange(20).reshape(2, 10) + 7
BATCH = {"input_ids": IDS}
SMALL = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
STARTS = {
    "pissa_niter": {"init_lora_weights": "pissa_niter_4"},
    "pissa_niter_rslora_patterns": {
        "init_lora_weights": "pissa_niter_4",
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"down_proj": 3},
    },
    "pissa_niter_dora": {"init_lora_weights": "pissa_niter_4", "use_dora": True},
    "pissa_niter_embedding": {
        "init_lora_weights": "pissa_niter_4",
        "target_modules": ["q_proj", "embed_tokens"],
    },
    "lora_ga": {"init_lora_weights": "lora_ga", "lora_ga_config": LoraGAConfig(stable_gamma=1)},
    "corda": {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method="kpm")},
}


def train(
    start: str, *, base: Path, folder: Path, residual: Path, rate: float = 5e-3, steps: int = 5
) -> torch.Tensor:
    """Trains, saves adapter (its start in `START_init` below it) and residual base, and says what the model answers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**{**SMALL, **STARTS[start]})
    _prepare(model, config)
    tuned = get_peft_model(model, config)
    init, config.init_lora_weights = config.init_lora_weights, True
    tuned.save_pretrained(folder / f"{start}_init")
    config.init_lora_weights = init
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        tuned(IDS, labels=IDS).loss.backward()
        optimizer.step()
    tuned.save_pretrained(folder)
    edit_config(folder, base_model_name_or_path=str(base))
    want = logits(tuned.eval(), BATCH)
    tuned.unload().save_pretrained(residual)
    return want


def _prepare(model: Any, config: LoraConfig) -> None:
    def step() -> None:
        model(IDS, labels=IDS).loss.backward()

    if config.init_lora_weights == "lora_ga":
        preprocess_loraga(model, config, step)
        model.zero_grad()
    if config.init_lora_weights == "corda":
        for name, module in model.named_modules():
            if name.endswith(tuple(config.target_modules)):
                module.register_forward_hook(lambda layer, given, _: _covariance(layer, given[0]))
        with torch.no_grad():
            for shift in range(8):
                model(IDS + shift)
        for name, module in model.named_modules():
            if name.endswith(tuple(config.target_modules)):
                module._forward_hooks.clear()
                module.eigens = _eigens(module, rank=config.r)


def _covariance(layer: Any, given: torch.Tensor) -> None:
    rows = given.reshape(-1, given.shape[-1])
    layer.seen = getattr(layer, "seen", 0) + rows.T @ rows


def _eigens(layer: Any, *, rank: int) -> SimpleNamespace:
    """What PEFT's preprocess_corda leaves at a layer (its module imports `attr`, which PEFT does not bring)."""
    covariance = layer.seen + 0.01 * layer.seen.diag().mean() * torch.eye(layer.in_features)
    del layer.seen
    u, s, vt = torch.linalg.svd(layer.weight.data @ covariance, full_matrices=False)
    v = (vt @ torch.linalg.inv(covariance)).T
    return SimpleNamespace(
        U_WC=u[:, :rank].clone(), S_WC=s[:rank].clone(), V_WC=v[:, :rank].contiguous().clone()
    )


def distance(out: Path, want: torch.Tensor) -> float:
    """How far a merged model's answers are off the trained one's."""
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    return float((logits(model, BATCH) - want).abs().max())
