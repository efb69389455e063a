"""What goes where in the merged shards: the base's headers with the plan's changes, and the index."""

from __future__ import annotations

import json
import math

from bot.records import AddedTensor, Plan
from bot.weights.header import DTYPES, FLOATS, Header, encode
from bot.weights.layout import Layout, Shard


def merged_header(plan: Plan, *, base: Layout, shard: Shard) -> Header:
    """The header of the merged shard; the base's own, byte for byte, when nothing in it changes.

    Tensors keep the base's order; added ones come in their place, or behind the last shard's.
    """
    shapes = {b.tensor: b.shape for b in plan.bindings}
    dropped = set(plan.dropped)
    added: dict[str | None, list[AddedTensor]] = {}
    for tensor in plan.added:
        added.setdefault(tensor.place, []).append(tensor)
    entries: list[tuple[str, str, tuple[int, ...]]] = []
    for spec in shard.header.tensors:
        if spec.name not in dropped:
            entries.append((spec.name, _dtype(plan, spec.dtype), shapes.get(spec.name, spec.shape)))
        entries += [(a.name, _dtype(plan, a.dtype), a.shape) for a in added.get(spec.name, ())]
    if shard is base.shards[-1]:
        entries += [(a.name, _dtype(plan, a.dtype), a.shape) for a in added.get(None, ())]
    if entries == [(t.name, t.dtype, t.shape) for t in shard.header.tensors]:
        return shard.header
    return encode(entries, metadata=shard.header.metadata)


def _dtype(plan: Plan, dtype: str) -> str:
    return DTYPES[plan.dtype] if plan.dtype in DTYPES and dtype in FLOATS else dtype


def merged_index(base: Layout, *, headers: dict[str, Header]) -> str | None:
    """The text of the index: the base's own when it still holds, None when one file needs none."""
    if base.index is None and len(base.shards) == 1:
        return None
    index = json.loads(base.index) if base.index else {}
    specs = [t for header in headers.values() for t in header.tensors]
    total = sum(t.size for t in specs)
    metadata = index.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    same = headers == {s.file: s.header for s in base.shards}
    if base.index and same and metadata.get("total_size") == total:
        return base.index
    metadata = {**metadata, "total_size": total}
    if "total_parameters" in metadata and not same:
        metadata["total_parameters"] = sum(math.prod(t.shape) for t in specs)
    weight_map = {t.name: file for file, header in headers.items() for t in header.tensors}
    return json.dumps({**index, "metadata": metadata, "weight_map": weight_map}, indent=2) + "\n"
