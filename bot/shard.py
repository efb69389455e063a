"""The records of a merge that goes shard by shard: what each one takes, what it came to, and what that moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Portion:
    """One shard of the result, a unit of work of its own.

    `needs`: the base's shards that must be here for it, its own first, of `fetched_bytes` together where they have to
    be fetched. `written_bytes` is the size of the result. `sha256` is the base's digest where the Hub may copy the
    shard as it is, since nothing in it changes; else it is empty.
    """

    file: str
    needs: tuple[str, ...]
    fetched_bytes: int
    written_bytes: int
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class MergedShard:
    """A shard that is merged and proven: its digest and size, and how many of its tensors were merged and copied.

    `changed`: whether anything in it differs from the base. `seconds` are those of merging and proving, `peak_bytes`
    the most memory that the worker had by then. `by_hub`: the Hub has copied it from the base.
    """

    file: str
    sha256: str
    size: int
    merged: int = 0
    copied: int = 0
    changed: bool = False
    seconds: float = 0.0
    peak_bytes: int = 0
    device: str = "cpu"
    by_hub: bool = False


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What lines carry, in bytes a second."""

    down: int
    up: int


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a merge to the Hub moves when it goes shard by shard, in bytes.

    To fetch, to send (what the Hub does not know yet of that is less), and what the Hub copies itself. `least_bytes` is
    the smallest scratch space that does. `obstacle` says why this merge needs the whole model on the disk, if it does.
    """

    down_bytes: int
    up_bytes: int
    copied_bytes: int
    least_bytes: int
    shards: int
    obstacle: str = ""


@dataclass(frozen=True, kw_only=True)
class Proven:
    """A shard that a worker has merged, proven and sent, by the plan of this `key` in this `version` of the bot.

    `notes`: what it has seen of it, JSON by its kind, as it lies in a journal.
    """

    shard: MergedShard
    notes: dict[str, str]
    key: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A merge that is spread over workers, begun at the time `started`: what is `left` for them, and what is not.

    `beside`: bytes of the adapter and of small files, which everybody needs who works on it.
    """

    started: str
    left: tuple[Portion, ...]
    copied: tuple[MergedShard, ...]
    beside: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A merge of which workers have made every shard, begun at the time `started`.

    `made`: the destination was created for it. `copied` are those of the Hub.
    """

    started: str
    made: bool
    copied: tuple[MergedShard, ...]
    shards: tuple[Proven, ...]
