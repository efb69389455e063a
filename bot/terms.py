"""What whoever runs the bot allows: licences and limits. Read from the environment by `bot.settings`."""

from __future__ import annotations

from dataclasses import dataclass, field

# Each limit and the variable that sets it; a test holds the two against each other.
VARIABLES = {
    "base_bytes": "MERGE_BOT_MAX_BASE_BYTES",
    "adapter_bytes": "MERGE_BOT_MAX_ADAPTER_BYTES",
    "rank": "MERGE_BOT_MAX_RANK",
    "tensors": "MERGE_BOT_MAX_TENSORS",
    "download_bytes": "MERGE_BOT_MAX_DOWNLOAD_BYTES",
    "output_bytes": "MERGE_BOT_MAX_OUTPUT_BYTES",
    "disk_bytes": "MERGE_BOT_MAX_DISK_BYTES",
    "cost": "MERGE_BOT_MAX_COST",
    "cost_per_gb": "MERGE_BOT_COST_PER_GB",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large a merge may be; None: no limit.

    `base_bytes` and `adapter_bytes` are files of weights, of one model each; `tensors` are those of one model;
    `download_bytes`, `output_bytes` and `disk_bytes` are the plan's estimate. The defaults are beyond any model that
    is known, and below what only a broken or hostile file claims. `cost` is in whatever `cost_per_gb` is in: the
    price of what a merge fetches, reads and writes, since that is what its time goes into.
    """

    base_bytes: int | None = 4_000_000_000_000
    adapter_bytes: int | None = 200_000_000_000
    rank: int | None = 32_768
    tensors: int | None = 1_000_000
    download_bytes: int | None = None
    output_bytes: int | None = None
    disk_bytes: int | None = None
    cost: int | None = None
    cost_per_gb: int | None = None


@dataclass(frozen=True, kw_only=True)
class Terms:
    """`allowed_licenses`: identifiers of licences that are published though they forbid it in general."""

    allowed_licenses: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
