"""What a merge is held against: the live adapter's logits, and float64 arithmetic. None of the bot's own code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from bot.records import Plan
from tests.tiny.adapters import live
from tests.tiny.models import inputs, load, logits

ARITHMETIC = 2.0**-15  # 256 roundings of float32: transforms, exponentials and solves of a few hundred terms


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


@torch.no_grad()
def live_weights(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights that the live adapter acts with, in float64: what its layers answer to the unit vectors.

    This is the forward pass of training, not a merge of anybody's. Embeddings are asked for every token. What a start
    decomposes (PSOFT, FRoD, OSF), it decomposes in float32, as in training.
    """
    model: Any = live(base, adapter, dtype=torch.float32).double()
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            module = name.removeprefix("base_model.model.")
            found |= {f"{module}.{kind}": value for kind, value in _asked(layer).items()}
    return found


def _asked(layer: Any) -> dict[str, torch.Tensor]:
    plain = layer.get_base_layer()
    if isinstance(
        layer, FrodLayer
    ):  # loading makes U from another V than the stored one, which training rounded
        layer.frod_U["default"] = layer._calculate_frod_u_and_lambda(layer.frod_V["default"], plain.weight)[0]
    if isinstance(plain, torch.nn.Linear):
        zero = torch.zeros(1, 1, plain.in_features, dtype=torch.float64)
        bias = layer(zero).flatten()
        weight = layer(torch.eye(plain.in_features, dtype=torch.float64)[None])[0] - bias
        return {"weight": weight.T, "bias": bias}
    if isinstance(plain, torch.nn.Embedding):
        return {"weight": layer(torch.arange(plain.num_embeddings))}
    one = torch.ones(
        1, 1, plain.weight.numel(), dtype=torch.float64
    )  # a norm's weight: it scales what is one
    return {"weight": layer(one).flatten() / one.square().mean().add(plain.variance_epsilon).rsqrt()}


def worst_ulp(
    base: Path, adapter: Path, out: Path, *, arithmetic: float = ARITHMETIC
) -> tuple[float, float, int]:
    """How far merged tensors are off the live adapter's weights: in units in the last place, and against the bound.

    The bound is half a unit, and for float32 `arithmetic` of the largest weight of the tensor. The third number says
    how many tensors were compared.
    """
    tensors, ulps, shares, count = read_tensors(out), 0.0, 0.0, 0
    for name, wanted in live_weights(base, adapter).items():
        if name not in tensors:
            assert not wanted.any(), name  # a bias that neither has
            continue
        unit = spacing(wanted, tensors[name].dtype)
        error = (tensors[name].double() - wanted).abs()
        bound = unit / 2 + arithmetic * wanted.abs().max()
        ulps, shares = max(ulps, float((error / unit).max())), max(shares, float((error / bound).max()))
        count += 1
    return ulps, shares, count


def spacing(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The distance of neighbouring numbers of a dtype around float64 values."""
    exponent = torch.frexp(values)[1].double()
    return torch.clamp(
        torch.finfo(dtype).eps * 2 ** (exponent - 1), min=torch.finfo(dtype).smallest_normal / 2**10
    )
