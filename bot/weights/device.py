"""The device that arithmetic runs on."""

from __future__ import annotations

from pathlib import Path

from bot.errors import InputError

DRIVERS = ("nvidia*", "dxg", "kfd")  # of NVIDIA, of Windows for Linux guests, and of AMD


def choose(asked: str) -> str:
    """`cpu` or `cuda` for `auto`, `cpu` or `cuda`. Raises InputError when CUDA is asked for and not there."""
    available = asked != "cpu" and _has_cuda()
    if asked == "cuda" and not available:
        raise InputError(
            "There is no CUDA device that this torch can use.",
            advice="Leave out --device, or use --device cpu.",
            code="no-cuda",
        )
    return "cuda" if asked == "cuda" or (asked == "auto" and available) else "cpu"


def name_of(device: str) -> str:
    """What the GPU is called that was used; empty for `cpu`."""
    if device != "cuda":
        return ""
    import torch  # noqa: PLC0415 - it was used already

    return torch.cuda.get_device_name()


def has_driver() -> bool:
    """Whether there is a driver of a GPU. Looks at names alone."""
    return any(True for driver in DRIVERS for _ in Path("/dev").glob(driver))


def _has_cuda() -> bool:
    if not has_driver():
        return False
    import torch  # noqa: PLC0415 - a second that a machine without a GPU need not spend

    return torch.cuda.is_available()
