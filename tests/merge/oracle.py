"""What a merge is held against: the live adapter's logits, and float64 arithmetic. None of the bot's own code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from bot.records import Plan
from tests.tiny.adapters import live
from tests.tiny.models import inputs, load, logits


@dataclass(frozen=True)
class Difference:
    """Largest differences of logits: of merged and live, and of live and base (infinite when shapes differ)."""

    error: float
    effect: float


def compare(
    architecture: str, *, base: Path, adapter: Path, out: Path, plan: Plan, **options: object
) -> Difference:
    """Asks base, live adapter and merged model the same question, all in float32."""
    batch = inputs(architecture, base)
    want = logits(live(base, adapter, **options), batch)
    kind = getattr(transformers, plan.model_class)
    model, info = kind.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"], info["missing_keys"]
    got = logits(model.eval(), batch)
    before = logits(load(base, dtype=torch.float32), batch)
    effect = _distance(want, before) if want.shape == before.shape else torch.inf
    return Difference(error=_distance(want, got), effect=effect)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert torch.isfinite(a).all()
    return float((a - b).abs().max())


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder."""
    return {k: v for path in sorted(folder.glob("*.safetensors")) for k, v in load_file(path).items()}


def float64_weights(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The merged weights of a LoRA or DoRA on the linear layers of a llama, by the papers' formulas in float64."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    mine = {k: v.double() for k, v in load_file(adapter / "adapter_model.safetensors").items()}
    theirs = read_tensors(base)
    result = {}
    for key in (k for k in mine if k.endswith(".lora_A.weight")):
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = mine[key], mine[key.replace("lora_A", "lora_B")]
        rank = _pattern(config["rank_pattern"], module, config["r"])
        alpha = _pattern(config["alpha_pattern"], module, config["lora_alpha"])
        scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
        weight = theirs[f"{module}.weight"].double() + scale * (b @ a)
        magnitude = mine.get(key.replace("lora_A.weight", "lora_magnitude_vector"))
        if magnitude is not None:
            weight = magnitude[:, None] * weight / torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        result[f"{module}.weight"] = weight
    return result


def _pattern(pattern: dict[str, float], module: str, default: float) -> float:
    return next((v for k, v in pattern.items() if re.match(rf"(.*\.)?({k})$", module)), default)
