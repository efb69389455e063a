"""Adapter and initial adapter as one plain LoRA of twice the rank, in a folder that every later step can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from bot.weights.reader import read_tensors

TRAINED, INITIAL = ".trained.safetensors", ".initial.safetensors"  # what was stacked, for the proof


def stack(
    folder: Path,
    *,
    adapter: Path,
    initial: Path,
    file: str,
    renamed: Mapping[str, str],
    theirs: Mapping[str, str],
) -> None:
    """Fills the empty `folder` with links to the adapter's files, and with the stacked weights as `file`.

    `adapter`: its folder, which holds `file`; `initial`: the initial adapter's weights. `renamed` and `theirs`: the
    names under which tensors of either are read. [A; A₀] and [B, -B₀] multiply to BA - B₀A₀. Raises what reading an
    adapter raises.
    """
    for path in (*adapter.glob("[!.]*"), *adapter.glob("[!.]*/*")):
        if path.is_file() and path.name != file:
            target = folder / path.relative_to(adapter)
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path.resolve())
    (folder / TRAINED).symlink_to((adapter / file).resolve())
    (folder / INITIAL).symlink_to(initial.resolve())
    start = read_tensors(initial, renamed=theirs)
    trained = read_tensors(adapter / file, renamed={})
    save_file({n: _pair(renamed.get(n, n), t, start) for n, t in trained.items()}, folder / file)


def _pair(name: str, trained: torch.Tensor, start: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if name.endswith((".lora_A.weight", ".lora_embedding_A")):
        return torch.cat([trained, start[name]])
    if name.endswith((".lora_B.weight", ".lora_embedding_B")):
        return torch.cat([trained, -start[name]], dim=1)
    return trained
