"""The records of where a merge comes from, file by file, and of what became of it when somebody looked again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.records import Pinned

Role = Literal["adapter", "base", "initial-adapter"]
State = Literal["same", "differs", "missing", "additional", "edited", "kept", "unchecked"]


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file that went into a merge: whose, its name in that repository or folder, and its size in bytes.

    `told_by` says where `sha256` is from: the `hub` lists it, or the file was `read` here. It is empty, by `nobody`,
    for a local file so large that taking it would have meant to read the file a second time.
    """

    role: Role
    source: Pinned
    name: str
    size: int
    sha256: str = ""
    told_by: Literal["hub", "read", "nobody"] = "nobody"


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run: from when to when (ISO 8601, UTC), on what kind of machine, with which versions."""

    started: str
    finished: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    isolation: str


@dataclass(frozen=True, kw_only=True)
class FileState:
    """A file of a result: the SHA-256 that was `expected` and the one that was `found`, empty where there is none.

    `edited` is a card that is not the one that was published: people edit them. `kept` is a file of the adapter's own
    repository, in which a merge was proposed beside it. `unchecked` is one that went in and is out of reach.
    """

    name: str
    state: State
    expected: str = ""
    found: str = ""

    @property
    def wrong(self) -> bool:
        """Whether this is not as it should be."""
        return self.state in ("differs", "missing", "additional")


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found at a place. `contradictions`: sentences about plan, report and statement.

    `inputs`: the files that are said to have gone in, against the Hub at their commits.
    `rebuilt`: the files of a merge that was made again, as `expected`, against those at the place; None when none was.
    """

    place: str
    verdict: Literal["passed", "failed"]
    plan_key: str
    adapters: tuple[Pinned, ...]
    base: Pinned
    files: tuple[FileState, ...]
    inputs: tuple[FileState, ...] = ()
    contradictions: tuple[str, ...] = ()
    rebuilt: tuple[FileState, ...] | None = None
    notes: tuple[str, ...] = ()
