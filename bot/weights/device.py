"""The device that arithmetic runs on."""

from __future__ import annotations

import torch

from bot.errors import InputError


def choose(asked: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`. Raises InputError when CUDA is asked for and not there."""
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise InputError(
            "There is no CUDA device that this torch can use.",
            advice="Leave out --device, or use --device cpu.",
            code="no-cuda",
        )
    return "cuda" if asked == "cuda" or (asked == "auto" and available) else "cpu"
