"""The adapter's tensors: loaded once, checked before anything is merged. Adapters are small beside their base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from bot.errors import InputError, RefusedError
from bot.records import Binding

ZEROED = (".lora_B.weight", ".lora_embedding_B")
START = (".lora_A.weight", ".lora_embedding_A")


def load_adapter(path: Path, *, renamed: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Every tensor of the file by its name in the plan.

    Raises RefusedError for NaN or infinity, InputError for a broken file.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path.name} cannot be read: {error}.",
            advice="Download or save the adapter again.",
            code="file-unreadable",
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise RefusedError(
                f"The adapter tensor {name} holds NaN or infinity: the training diverged.",
                advice="Take an earlier checkpoint.",
                code="adapter-not-finite",
            )
    return {renamed.get(name, name): tensor for name, tensor in tensors.items()}


def check_effect(tensors: dict[str, torch.Tensor], *, bindings: tuple[Binding, ...], scaled: bool) -> None:
    """Raises RefusedError when it is plain that the adapter changes nothing, so that no time is lost on it.

    `scaled`: lora_alpha is not zero. The merge itself checks again, on the merged tensors.
    """
    if any(b.method not in {"lora", "lora_bias", "copy"} for b in bindings):
        return
    products = [_is_zero(tensors, b) for b in bindings if b.method != "copy"]
    if not scaled or all(products):
        raise without_effect(
            "every product of its low-rank matrices is zero" if scaled else "its lora_alpha is zero"
        )


def _is_zero(tensors: dict[str, torch.Tensor], binding: Binding) -> bool:
    if binding.method == "lora_bias":
        return not any(tensors[k].any() for k in binding.adapter)
    return any(not tensors[k].any() for k in binding.adapter if k.endswith(ZEROED + START))


def without_effect(reason: str) -> RefusedError:
    """The refusal of an adapter that leaves the base as it is."""
    return RefusedError(
        f"The adapter has no effect: {reason}.",
        advice="Check that the trained checkpoint was saved, not the one before the first step.",
        code="no-effect",
    )
