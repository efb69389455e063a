"""What several adapters are held against: PEFT's own `add_weighted_adapter`, and its merges one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer, LoraModel

from bot.merge.combine import module_seed
from tests.tiny.models import load

SPARSE = (
    "_generalized_task_arithmetic_weighted_adapter",
    "_svd_generalized_task_arithmetic_weighted_adapter",
)


def joint(
    base: Path,
    adapters: Sequence[Path],
    weights: Sequence[float],
    *,
    method: str,
    seed: int = 0,
    **options: Any,
) -> PeftModel:
    """Base and PEFT's combination of the adapters, unmerged, in float32.

    Random numbers are seeded for each module, as the bot promises; PEFT itself takes them as they come.
    """
    model = several(base, adapters)
    with torch.random.fork_rng(devices=[]):
        _seed_each_module(model.base_model, seed=seed)
        names = [f"a{n}" for n in range(len(adapters))]
        model.add_weighted_adapter(names, list(weights), "joint", combination_type=method, **options)
    model.set_adapter("joint")
    return model.eval()


def several(base: Path, adapters: Sequence[Path]) -> PeftModel:
    """Base and all adapters, called a0, a1, …"""
    model = PeftModel.from_pretrained(load(base, dtype=torch.float32), str(adapters[0]), adapter_name="a0")
    for number, folder in enumerate(adapters[1:], 1):
        model.load_adapter(str(folder), adapter_name=f"a{number}")
    return model.eval()


def _seed_each_module(model: LoraModel, *, seed: int) -> None:
    names = {id(m): n.removeprefix("model.") for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name in SPARSE:
        original = getattr(model, name)

        def seeded(*given: Any, original: Any = original, **more: Any) -> Any:
            target = next(g for g in given if isinstance(g, LoraLayer))
            torch.manual_seed(module_seed(seed, names[id(target)]))
            return original(*given, **more)

        setattr(model, name, seeded)


def deltas(model: PeftModel, name: str = "joint") -> dict[str, torch.Tensor]:
    """Scale·B·A of every layer in float64, by the name of its weight."""
    found = {}
    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and name in layer.scaling:
            embedding = name in layer.lora_embedding_A
            a = layer.lora_embedding_A[name] if embedding else layer.lora_A[name].weight
            b = layer.lora_embedding_B[name] if embedding else layer.lora_B[name].weight
            delta = layer.scaling[name] * (b.double() @ a.double())
            found[f"{path.removeprefix('base_model.model.')}.weight"] = delta.T if embedding else delta
    return {k: v.detach() for k, v in found.items()}


def one_after_the_other(base: Path, adapters: Sequence[Path]) -> torch.nn.Module:
    """The base with every adapter merged by PEFT, in float32 from the first to the last."""
    model: Any = load(base, dtype=torch.float32)
    for folder in adapters:
        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return model.eval()
