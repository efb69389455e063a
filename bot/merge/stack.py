"""A stack: adapters merged one after the other, unrounded from the first to the last, one module in memory at a time.

Every stage reads its base through the stage before it. Nothing is written in between.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bot.merge.adapter import Adapter
from bot.merge.config import edited_config
from bot.merge.layers import LayerMerger
from bot.merge.modules import STORED, ModuleMerger, is_copy
from bot.merge.piece import Piece
from bot.merge.shards import merged_header
from bot.records import Binding, Plan
from bot.weights.experts import rearranged
from bot.weights.layout import Layout, Shard
from bot.weights.reader import TensorReader, read_tensors

Read = Callable[[str], torch.Tensor]
KEPT = 2  # merged tensors a stage remembers: the next one reads a tensor to look at it, and again to merge it


def merged_layout(plan: Plan, *, base: Layout) -> Layout:
    """The layout of what a stage makes of `base`, as if it were written."""
    return Layout(
        tuple(Shard(file=s.file, header=merged_header(plan, base=base, shard=s)) for s in base.shards)
    )


def stage_config(config: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The config.json of what a stage makes of a base with `config`."""
    return edited_config(config, {e.key: e.after for e in plan.config_edits})


def load_stages(plan: Plan, *, adapter_path: Path) -> list[dict[str, torch.Tensor]]:
    """The tensors of every stage's adapter. `adapter_path` is the last one's; they lie in folders beside each other.

    Raises RefusedError for one that is not finite or without effect.
    """
    found = []
    for stage in plan.stages:
        path = adapter_path.parents[1] / stage.adapter_file
        Adapter(path, renamed=stage.renamed).check_effect(stage.bindings)
        found.append(rearranged(read_tensors(path, renamed=stage.renamed), experts=stage.experts))
    return found


class Stage:
    """What one adapter makes of the tensors that `read` gives: those of a base with this `config` and `layout`."""

    def __init__(
        self,
        plan: Plan,
        *,
        config: dict[str, Any],
        layout: Layout,
        adapter: Mapping[str, torch.Tensor],
        read: Read,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.plan, self.layout, self.adapter, self.before = plan, layout, adapter, read
        self.config = stage_config(config, plan)
        self.bindings = {b.tensor: b for b in plan.bindings}
        self.modules = ModuleMerger(
            plan, config=self.config, base=layout, adapter=adapter, device=device, dtype=dtype
        )
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the stage's result, not rounded where the adapter has changed it."""
        if name not in self.bindings:
            return self.before(name)
        if name not in self._kept:
            self._kept[name] = self.modules.merge(
                self.bindings[name], self.before
            ).cpu()  # as readers have it
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[name]


def chain(
    plan: Plan,
    *,
    config: dict[str, Any],
    reader: TensorReader,
    adapters: Sequence[Mapping[str, torch.Tensor]],
    device: torch.device,
    wide: Callable[[Plan], torch.dtype],
) -> list[Stage]:
    """The stages, each on the one before it. `config`: the base's config.json; `wide`: each stage's own dtype."""
    read, layout = reader.read, reader.layout
    stages: list[Stage] = []
    for each, adapter in zip(plan.stages, adapters, strict=True):
        stage = Stage(
            each, config=config, layout=layout, adapter=adapter, read=read, device=device, dtype=wide(each)
        )
        stages.append(stage)
        if len(stages) > 1:
            _allow_base(stages, reader=reader, adapter=adapter)
        config, read, layout = stage.config, stage.read, merged_layout(each, base=layout)
    return stages


def _allow_base(stages: list[Stage], *, reader: TensorReader, adapter: Mapping[str, torch.Tensor]) -> None:
    """Accepts the last stage's copies of embeddings (PEFT saves them) when they are those of the stack's base.

    It was trained on that then, and not on what the stages before it make; another model's are still refused.
    """
    *before, last = stages
    for name, binding in last.bindings.items():
        origin = binding.source
        for stage in reversed(before):
            origin = stage.bindings[origin].source if origin in stage.bindings else origin
        copies = {k for k in binding.adapter if k.endswith(STORED)}
        if copies and origin in reader.layout.tensors:
            base = reader.read(origin)
            own = {key for key in copies if is_copy(adapter[key], base)}
            last.bindings[name] = replace(binding, adapter=tuple(k for k in binding.adapter if k not in own))


class StackMerger(LayerMerger):
    """Gives the stream the tensors of the last stage, whole."""

    def __init__(
        self,
        plan: Plan,
        *,
        config: dict[str, Any],
        reader: TensorReader,
        adapter_path: Path,
        device: torch.device,
    ) -> None:
        self.reader = reader
        self._changed = False
        adapters = load_stages(plan, adapter_path=adapter_path)
        *_, last = chain(
            plan, config=config, reader=reader, adapters=adapters, device=device, wide=lambda _: torch.float32
        )
        self.read = last.read

    @property
    def changed(self) -> bool:
        """Whether anything that was merged differs from the base."""
        return self._changed

    def pieces(self, binding: Binding, *, dtype: str) -> Iterator[Piece]:
        """The tensor in one piece."""
        yield Piece(parts=partial(self._parts, binding, dtype=dtype), alone=True)

    def _merged(self, binding: Binding) -> torch.Tensor:
        return self.read(binding.tensor)
