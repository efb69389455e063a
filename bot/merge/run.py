"""The merge stage: chooses the way that the plan says, and streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bot.merge.adapter import check_effect, load_adapter
from bot.merge.kernels import RowMerger
from bot.merge.piece import Merger
from bot.merge.stream import Stream
from bot.progress import Progress
from bot.records import MergedModel, Plan
from bot.weights.device import choose
from bot.weights.layout import Layout
from bot.weights.reader import TensorReader


def merge(
    plan: Plan,
    *,
    base_folder: Path,
    base: Layout,
    config: dict[str, Any],
    adapter_path: Path,
    out: Path,
    device: str,
    progress: Progress,
    workers: int | None = None,
) -> MergedModel:
    """Writes the merged weights and their index into the existing folder `out`.

    `config` is the base's config.json. Plain LoRA and DoRA (`plan.way` is `names`) are merged in row blocks,
    everything else (`layers`) one module at a time through PEFT's own layers. Raises RefusedError for an adapter that
    is not finite, without effect or contradictory, and for results that overflow; OSError as it comes from the disk.
    """
    adapter = load_adapter(adapter_path, renamed=plan.renamed)
    check_effect(adapter, bindings=plan.bindings, scaled=any(b.scale != 0 for b in plan.bindings))
    target = torch.device(choose(device))
    reader = TensorReader(base_folder, layout=base)
    merger = _merger(plan, config=config, reader=reader, adapter=adapter, device=target)
    stream = Stream(plan, reader=reader, merger=merger, out=out, progress=progress)
    return replace(stream.run(workers=workers), device=str(target))


def _merger(
    plan: Plan,
    *,
    config: dict[str, Any],
    reader: TensorReader,
    adapter: dict[str, torch.Tensor],
    device: torch.device,
) -> Merger:
    if plan.way == "names":
        return RowMerger(reader=reader, adapter=adapter, device=device)
    from bot.merge.modules import LayerMerger  # noqa: PLC0415 - transformers and PEFT

    return LayerMerger(plan, config=config, reader=reader, adapter=adapter, device=device)
