"""The merge stage: chooses the way that the plan says, and streams."""

from __future__ import annotations

import math
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from bot.merge import crew
from bot.merge.adapter import Adapter
from bot.merge.crew import Crew
from bot.merge.piece import Merger
from bot.merge.rows import RowMerger
from bot.merge.shards import merged_header
from bot.merge.stream import Stream
from bot.merge.witness import Witness
from bot.progress import Progress
from bot.records import MergedModel, Plan
from bot.weights.device import choose
from bot.weights.header import ITEM_BITS
from bot.weights.layout import Layout
from bot.weights.rows import RowReader

STARTS = ("initial-adapter", "residual-base")  # patches that say: the start changed the base


def merge(  # noqa: PLR0913 - adapter, base and result, and how it is done
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
    witness: Witness | None = None,
    digest: bool = False,
    only: str | None = None,
) -> MergedModel:
    """Writes the merged weights and their index into the existing folder `out`.

    `config` is the base's config.json. Plain LoRA and DoRA (`plan.way` is `names`) are merged in row blocks,
    everything else one module at a time through PEFT's own layers, from the base's tensors (`layers`) or from the model
    that transformers has loaded (`whole`). `only`: the one shard that is written, without an index; then `base_folder`
    need not hold more than that is made of (`bot.plan.shardwise` knows), and a merge that changes nothing in it is no
    error. Raises RefusedError for an adapter that
    is not finite, without effect or contradictory, and for results that overflow; OSError as it comes from the disk.
    """
    device = "cpu" if plan.parity == "peft" else choose(device)
    if plan.stages:
        with RowReader(base_folder, layout=base) as reader:
            stack = _stack(plan, reader, config, adapter_path, device)
            stream = Stream(plan, reader=reader, merger=stack, out=out, progress=progress, witness=witness)
            return replace(stream.run(workers=workers, digest=digest), device=device)
    adapter = Adapter(adapter_path, renamed=plan.renamed)
    adapter.check_effect(plan.bindings)
    if any(patch.rule in STARTS for patch in plan.patches):
        _check_start(plan, base_folder=base_folder, base=base, adapter_path=adapter_path)
    if plan.way == "whole":
        return _whole(plan, base_folder, base, config, adapter_path, device, out, progress, witness)
    with RowReader(base_folder, layout=base) as reader:
        rows = _rows(reader, adapter=adapter, device=device)
        merger = rows if plan.way == "names" else _layers(plan, reader, config, adapter_path, rows, device)
        part = plan if only is None else part_of(plan, base=base, file=only)
        with (
            threadpool_limits(1, user_api="blas"),
            _crew(part, merger=merger, device=device, workers=workers) as hands,
        ):
            stream = Stream(
                part, reader=reader, merger=merger, out=out, progress=progress, witness=witness, crew=hands
            )
            return replace(stream.run(workers=workers, digest=digest, only=only), device=device)


def part_of(plan: Plan, *, base: Layout, file: str) -> Plan:
    """The plan with the bindings of one shard's tensors alone."""
    shard = next(shard for shard in base.shards if shard.file == file)
    names = {spec.name for spec in merged_header(plan, base=base, shard=shard).tensors}
    return replace(plan, bindings=tuple(b for b in plan.bindings if b.tensor in names))


def _crew(
    plan: Plan, *, merger: Merger, device: str, workers: int | None
) -> AbstractContextManager[Crew | None]:
    """Processes for a merge by rows that is worth them."""
    size = sum(math.prod(b.shape) * ITEM_BITS[b.dtype] // 8 for b in plan.bindings)
    count = workers or len(os.sched_getaffinity(0))
    if plan.way != "names" or device != "cpu" or size < crew.WORTH_IT or count < 2:
        return nullcontext()
    return Crew(merger, bindings=plan.bindings, count=count)


def _check_start(plan: Plan, *, base_folder: Path, base: Layout, adapter_path: Path) -> None:
    from bot.merge.start import check_start  # noqa: PLC0415 - torch
    from bot.weights.reader import TensorReader, read_tensors  # noqa: PLC0415 - torch

    with TensorReader(base_folder, layout=base) as reader:
        check_start(plan, reader=reader, adapter=read_tensors(adapter_path, renamed=plan.renamed))


def _rows(reader: RowReader, *, adapter: Adapter, device: str) -> Merger:
    if device == "cpu":
        return RowMerger(reader=reader, adapter=adapter.array)
    from bot.merge.kernels import DeviceRowMerger  # noqa: PLC0415 - torch, which a plain merge does without

    return DeviceRowMerger(reader=reader, adapter=adapter.array, device=device)


def _stack(plan: Plan, reader: RowReader, config: dict[str, Any], adapter_path: Path, device: str) -> Merger:
    import torch  # noqa: PLC0415

    from bot.merge.stack import StackMerger  # noqa: PLC0415 - transformers and PEFT
    from bot.weights.reader import TensorReader  # noqa: PLC0415 - torch

    tensors = TensorReader(reader.folder, layout=reader.layout)
    target = torch.device(device)
    return StackMerger(plan, config=config, reader=tensors, adapter_path=adapter_path, device=target)


def _layers(
    plan: Plan, reader: RowReader, config: dict[str, Any], adapter_path: Path, rows: Merger, device: str
) -> Merger:
    import torch  # noqa: PLC0415

    from bot.merge.layers import LayerMerger  # noqa: PLC0415 - transformers and PEFT
    from bot.weights.experts import rearranged  # noqa: PLC0415 - torch
    from bot.weights.reader import TensorReader, read_tensors  # noqa: PLC0415 - torch

    tensors = TensorReader(reader.folder, layout=reader.layout)
    adapter = rearranged(read_tensors(adapter_path, renamed=plan.renamed), experts=plan.experts)
    return LayerMerger(
        plan, config=config, reader=tensors, adapter=adapter, rows=rows, device=torch.device(device)
    )


def _whole(
    plan: Plan,
    base_folder: Path,
    base: Layout,
    config: dict[str, Any],
    adapter_path: Path,
    device: str,
    out: Path,
    progress: Progress,
    witness: Witness | None,
) -> MergedModel:
    import torch  # noqa: PLC0415

    from bot.merge.loaded import Loaded  # noqa: PLC0415 - transformers
    from bot.merge.whole import WholeMerger  # noqa: PLC0415 - transformers and PEFT
    from bot.weights.experts import rearranged  # noqa: PLC0415 - torch
    from bot.weights.reader import TensorReader, read_tensors  # noqa: PLC0415 - torch

    progress.say("Loading the whole model")
    adapter = rearranged(read_tensors(adapter_path, renamed=plan.renamed), experts=plan.experts)
    with (
        RowReader(base_folder, layout=base) as reader,
        Loaded(plan, folder=base_folder, base=base, config=config, device=device, scratch=out) as loaded,
    ):
        tensors, target = TensorReader(base_folder, layout=base), torch.device(device)
        merger = WholeMerger(
            plan, config=config, reader=tensors, adapter=adapter, loaded=loaded, device=target
        )
        stream = Stream(plan, reader=reader, merger=merger, out=out, progress=progress, witness=witness)
        return replace(stream.run(workers=1), device=device, notes=loaded.notes)
