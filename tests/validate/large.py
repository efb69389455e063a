"""A merge with tensors that are large enough to be sampled, made by three lines of torch; no model has these names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from tests.validate.factory import Case, bind, plan

ROWS, COLUMNS, RANK, ALPHA = 640, 64, 4, 6
NAMES = ("up_proj", "down_proj")
UP = "up_proj.weight"
NORM = "norm.weight"
PREFIX = "base_model.model."


def large(folder: Path, *, dtype: torch.dtype = torch.bfloat16, dora: bool = False, **config: Any) -> Case:
    """Two linear weights with plain LoRA or DoRA on them, and a tensor that is copied."""
    generator = torch.Generator().manual_seed(0)
    base, adapter, merged = {}, {}, {}
    for name in NAMES:
        weight = torch.randn(ROWS, COLUMNS, generator=generator).to(dtype)
        a = torch.randn(RANK, COLUMNS, generator=generator) * 0.1
        b = torch.randn(ROWS, RANK, generator=generator)
        value = weight.float() + (ALPHA / RANK) * (b @ a)
        adapter |= {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
        if dora:
            magnitude = torch.rand(ROWS, generator=generator) + 4
            adapter[f"{PREFIX}{name}.lora_magnitude_vector"] = magnitude
            value *= (magnitude / value.norm(dim=1)).unsqueeze(1)
        base[f"{name}.weight"], merged[f"{name}.weight"] = weight, value.to(dtype)
    base[NORM] = merged[NORM] = torch.randn(COLUMNS, generator=generator).to(dtype)
    _save(folder / "base", "model", base, {"architectures": ["NoModel"]})
    keys = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_dora": dora, **config}
    _save(folder / "adapter", "adapter_model", adapter, keys, file="adapter_config.json")
    _save(folder / "merged", "model", merged, {})
    layout = read_layout(LocalFiles(folder / "base"))
    made = plan(
        folder / "base",
        folder / "adapter",
        layout=layout,
        bindings=bind(folder / "adapter", layout=layout),
    )
    return Case(folder / "base", folder / "adapter", folder / "merged", replace(made, way="names"))


def _save(
    folder: Path, name: str, tensors: dict[str, Tensor], config: dict[str, Any], *, file: str = "config.json"
) -> None:
    folder.mkdir()
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    (folder / file).write_text(json.dumps(config))
