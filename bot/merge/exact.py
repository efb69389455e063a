"""The merge once more, in float64: what tensors are held against where no formula of the papers is at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bot.merge.config import edited_config
from bot.merge.modules import ModuleMerger
from bot.merge.stack import chain, load_stages
from bot.records import Binding, Plan
from bot.weights.experts import rearranged
from bot.weights.layout import Layout
from bot.weights.reader import TensorReader, read_tensors

FLOAT32_ONLY = frozenset({"PSOFT", "VBLORA"})  # PEFT computes their factors in float32, whatever the dtype


def exact_merge(
    plan: Plan, *, base_folder: Path, base: Layout, config: dict[str, Any], adapter_path: Path
) -> Callable[[Binding], torch.Tensor]:
    """A function that gives a binding's tensor in float64, through PEFT's layers in that dtype.

    `config` is the base's config.json. Nothing is loaded before the function is called for the first time; each
    binding can be asked for once.
    """
    if plan.stages:
        return _exact_stack(
            plan, reader=TensorReader(base_folder, layout=base), config=config, adapter_path=adapter_path
        )
    made: list[ModuleMerger] = []
    reader = TensorReader(base_folder, layout=base)

    def merged(binding: Binding) -> torch.Tensor:
        if not made:
            edited = edited_config(config, {e.key: e.after for e in plan.config_edits})
            adapter = rearranged(read_tensors(adapter_path, renamed=plan.renamed), experts=plan.experts)
            cpu = torch.device("cpu")
            made.append(
                ModuleMerger(plan, config=edited, base=base, adapter=adapter, device=cpu, dtype=_wide(plan))
            )
        return made[0].merge(binding, reader.read).double()

    return merged


def _exact_stack(
    plan: Plan, *, reader: TensorReader, config: dict[str, Any], adapter_path: Path
) -> Callable[[Binding], torch.Tensor]:
    """The same for a stack: float64 from the first stage to the last."""
    made: list[Callable[[str], torch.Tensor]] = []

    def merged(binding: Binding) -> torch.Tensor:
        if not made:
            adapters = load_stages(plan, adapter_path=adapter_path)
            cpu = torch.device("cpu")
            *_, last = chain(plan, config=config, reader=reader, adapters=adapters, device=cpu, wide=_wide)
            made.append(last.read)
        return made[0](binding.tensor).double()

    return merged


def _wide(plan: Plan) -> torch.dtype:
    return torch.float32 if plan.peft_type in FLOAT32_ONLY else torch.float64
