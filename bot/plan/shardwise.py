"""Whether a merge can go shard by shard, what each shard of the result takes, and how little disk that needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from bot.errors import RefusedError
from bot.records import Binding, Plan
from bot.shard import Portion, Rates, Traffic
from bot.weights.header import DTYPES, FLOATS, ITEM_BITS
from bot.weights.layout import Layout, Shard
from bot.wording import size

MOST = 0.95  # of a disk that is too small for the whole model: others write there, too
ENTRY = 512  # bytes of a header that an added tensor may take
STARTS = (
    "initial-adapter",
    "residual-base",
)  # patches that say: the start changed the base, which all of it shows
EITHER = "Leave out --scratch-limit, or take a machine with more disk"


def obstacle(plan: Plan, *, pickled: bool) -> str:
    """Why this merge needs the whole model on the disk, in a few words; empty when it does not."""
    if plan.way == "whole":
        return "transformers has to load the whole model"
    if plan.stages:
        return "adapters that are stacked are merged through all of the base"
    if plan.dequantized:
        return "a quantised base is written out in full first"
    if pickled:
        return "pickle files are written out as safetensors first"
    if plan.initial is not None or any(patch.rule in STARTS for patch in plan.patches):
        return "the start of the adapter is held against all of the base"
    return ""


def portions(plan: Plan, *, base: Layout, digests: Mapping[str, str], remote: bool) -> tuple[Portion, ...]:
    """The shards of the result in their order. `digests`: those that the Hub tells of the base's files.

    `remote`: the base lies on the Hub; a local one is not fetched, and nobody can copy it there.
    """
    bindings = {b.tensor: b for b in plan.bindings}
    sizes = {shard.file: shard.header.file_size for shard in base.shards}
    found = []
    for shard in base.shards:
        needs = _needs(shard, plan=plan, base=base, bindings=bindings)
        same = remote and _is_untouched(shard, plan=plan, base=base, bindings=bindings)
        found.append(
            Portion(
                file=shard.file,
                needs=needs,
                fetched_bytes=sum(sizes[name] for name in needs) if remote else 0,
                written_bytes=_written(shard, plan=plan, base=base, bindings=bindings),
                sha256=digests.get(shard.file, "") if same else "",
            )
        )
    return tuple(found)


def traffic(found: tuple[Portion, ...], *, beside: int, why_not: str) -> Traffic:
    """What the portions move. `beside`: bytes of the adapter and of small files, which are here all the time."""
    moved = [p for p in found if not p.sha256]
    return Traffic(
        down_bytes=sum(p.fetched_bytes for p in moved) + beside,
        up_bytes=sum(p.written_bytes for p in moved),
        copied_bytes=sum(p.written_bytes for p in found if p.sha256),
        least_bytes=beside + max((p.fetched_bytes + p.written_bytes for p in found), default=0),
        shards=len(found),
        obstacle=why_not,
    )


def seconds(moved: Traffic, *, rates: Rates) -> float:
    """How long the lines take, in seconds: both are in use at the same time."""
    return max(moved.down_bytes / rates.down, moved.up_bytes / rates.up)


def limit(plan: Plan, *, asked: int | None, free: int, fetched: int) -> int | None:
    """How many bytes of disk a merge that goes shard by shard may take; None for one that need not go so.

    `asked` is what the user allows, `free` what the disk has, of which the base would take `fetched`: none where it is
    here, or goes to another disk. Raises RefusedError where that does not do.
    """
    moved, whole = plan.traffic, plan.estimate.output_bytes + plan.estimate.download_bytes
    if asked is not None:
        within(plan, asked)
        return asked if whole > asked else None
    if moved is None or moved.obstacle or fetched + plan.estimate.output_bytes <= free:
        return None
    most = int(free * MOST)
    return most if moved.least_bytes <= most else None  # the disk says that it is full


def within(plan: Plan, limit: int | None) -> Plan:
    """The plan for no more scratch space than that. Raises RefusedError where it does not do, with what would."""
    moved = plan.traffic
    if limit is None or plan.estimate.disk_bytes <= limit:
        return plan
    if moved is None:
        raise RefusedError(
            f"The merge takes {size(plan.estimate.disk_bytes)} of disk, and only a merge to the Hub goes with less.",
            advice=f"{EITHER}, or name a Hub repository with --to.",
            code="scratch-too-small",
        )
    if moved.obstacle:
        raise RefusedError(
            f"This merge cannot go shard by shard: {moved.obstacle}.",
            advice=f"{EITHER}: it needs {size(plan.estimate.disk_bytes)}.",
            code="scratch-too-small",
        )
    if moved.least_bytes > limit:
        raise RefusedError(
            f"The largest shard takes {size(moved.least_bytes)} of scratch space, and {size(limit)} are allowed.",
            advice=f"Allow at least --scratch-limit {math.ceil(moved.least_bytes / 1e6)}MB.",
            code="scratch-too-small",
        )
    return replace(plan, estimate=replace(plan.estimate, disk_bytes=limit))


def _needs(shard: Shard, *, plan: Plan, base: Layout, bindings: Mapping[str, Binding]) -> tuple[str, ...]:
    """Its own file, and those with what its changed tensors are made of.

    Where PEFT's layers merge, that is every tensor of the same modules, and of the same stack of experts.
    """
    own = [t.name for t in shard.header.tensors] + _added(shard, plan=plan, base=base)
    mine = [bindings[name] for name in own if name in bindings]
    if plan.way != "names":
        parameters, modules = {b.parameter for b in mine}, {_module(b.parameter) for b in mine}
        mine = [b for b in plan.bindings if b.parameter in parameters or _module(b.parameter) in modules]
    files = {base.files[name] for b in mine for name in (b.tensor, b.source) if name in base.files}
    if plan.way != "names":
        modules = {_module(name) for b in mine for name in (b.tensor, b.source) if name}
        files |= {file for name, file in base.files.items() if _module(name) in modules}
    return (shard.file, *sorted(files - {shard.file}))


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _added(shard: Shard, *, plan: Plan, base: Layout) -> list[str]:
    """The tensors that come into this shard: in the place of one of its own, or behind the last one's."""
    own, last = {t.name for t in shard.header.tensors}, shard is base.shards[-1]
    return [a.name for a in plan.added if (a.place in own if a.place is not None else last)]


def _is_untouched(shard: Shard, *, plan: Plan, base: Layout, bindings: Mapping[str, Binding]) -> bool:
    names = {t.name for t in shard.header.tensors}
    cast = any(_dtype(plan, t.dtype) != t.dtype for t in shard.header.tensors)
    return not (cast or names & (bindings.keys() | set(plan.dropped)) or _added(shard, plan=plan, base=base))


def _written(shard: Shard, *, plan: Plan, base: Layout, bindings: Mapping[str, Binding]) -> int:
    dropped = set(plan.dropped)
    kept = [t for t in shard.header.tensors if t.name not in dropped]
    tensors = [(t.dtype, bindings[t.name].shape if t.name in bindings else t.shape) for t in kept]
    coming = set(_added(shard, plan=plan, base=base))
    tensors += [(a.dtype, a.shape) for a in plan.added if a.name in coming]
    data = sum(math.prod(shape) * ITEM_BITS[_dtype(plan, dtype)] // 8 for dtype, shape in tensors)
    return data + shard.header.data_start + ENTRY * len(coming)


def _dtype(plan: Plan, dtype: str) -> str:
    return DTYPES[plan.dtype] if plan.dtype in DTYPES and dtype in FLOATS else dtype
