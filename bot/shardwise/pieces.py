"""What a prepared merge consists of, and what of that the Hub copies by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bot.plan import shardwise
from bot.prepare import Prepared
from bot.shard import MergedShard, Portion
from bot.weights.files import LocalFiles

if TYPE_CHECKING:
    from bot.clients.hub_parcel import Parcel


def portions(prepared: Prepared) -> tuple[tuple[Portion, ...], int]:
    """The shards of the result, and how many bytes are needed beside them all the time."""
    plan, files = prepared.plan, prepared.base.files
    remote = not isinstance(files, LocalFiles)
    found = shardwise.portions(plan, base=prepared.layout, digests=files.digests(), remote=remote)
    traffic = shardwise.traffic(found, beside=0, why_not="")
    return found, max(0, plan.traffic.least_bytes - traffic.least_bytes if plan.traffic else 0)


def copy(found: Sequence[Portion], *, parcel: Parcel, prepared: Prepared) -> tuple[MergedShard, ...]:
    """Has the Hub copy those that nothing changes in; the answer is what it has copied."""
    wanted = {portion.file: portion.sha256 for portion in found if portion.sha256}
    copied = parcel.copy(prepared.base.pinned, wanted) if wanted else set()
    shards = [shard for shard in prepared.layout.shards if shard.file in copied]
    return tuple(
        MergedShard(
            file=shard.file,
            sha256=wanted[shard.file],
            size=shard.header.file_size,
            copied=len(shard.header.tensors),
            by_hub=True,
        )
        for shard in shards
    )
