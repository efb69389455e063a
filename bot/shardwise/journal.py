"""Which shards are merged, proven and sent: what a run leaves behind when it is killed, for the next one to go on from.

One small folder a merge. Each line is on the disk before its shard leaves it; what it says is held against the Hub.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bot import __version__
from bot.records import Plan
from bot.request import MergeRequest
from bot.serial import as_dict, from_dict
from bot.shard import MergedShard, Proven, Spread

HEAD, ENDING = "merge.json", "-shards"
FORGOTTEN = 14 * 86_400  # seconds
PROOFS = {
    "found": ("tensors", "full"),
    "answers": ("full",),
}  # what a worker writes down, by how much is checked


class Journal:
    """The journal in `folder`, which is made; one of another merge, destination or version starts anew.

    `made`: the destination was created for this merge, by this run or the one before it.
    """

    def __init__(self, folder: Path, *, plan: Plan, request: MergeRequest) -> None:
        self.folder = folder
        self._head = _head(plan, request)
        self.made = False
        found = _read(folder / HEAD)
        if found is not None and found.get("of") == self._head:
            self.made = bool(found.get("made"))
        else:
            self.remove()
        _sweep(folder.parent)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.begin(made=self.made)

    def begin(self, *, made: bool) -> None:
        """Writes down what the journal is of."""
        self.made = made
        _write(self.folder / HEAD, {"of": self._head, "made": made})

    def shards(self) -> dict[str, MergedShard]:
        """The shards that were done, by their files."""
        found = {}
        for path in sorted(self.folder.glob("*.done.json")):
            with suppress(TypeError, KeyError, ValueError):  # cut off: it is merged again
                shard = from_dict(MergedShard, _read(path) or {})
                if path.name == f"{shard.file}.done.json" and (shard.by_hub or self._is_proven(shard)):
                    found[shard.file] = shard
        return found

    def add(self, shard: MergedShard) -> None:
        """Writes down a shard that the Hub has."""
        _write(self.folder / f"{shard.file}.done.json", as_dict(shard))

    def take(self, spread: Spread) -> None:
        """Writes down what workers have done of this merge, as if it had been done here."""
        self.begin(made=spread.made)
        for each in spread.shards:
            if (each.key, each.version) != (self._head["key"], self._head["version"]):
                continue  # as if it had not been done
            for kind, text in each.notes.items():
                (self.folder / f"{each.shard.file}.{kind}.json").write_text(text, encoding="utf-8")
            self.add(each.shard)
        for shard in spread.copied:
            self.add(shard)

    def proven(self, shard: MergedShard) -> Proven:
        """A shard with what was written down of it."""
        found = {kind: self.folder / f"{shard.file}.{kind}.json" for kind in PROOFS}
        notes = {kind: path.read_text(encoding="utf-8") for kind, path in found.items() if path.is_file()}
        return Proven(shard=shard, notes=notes, key=self._head["key"], version=self._head["version"])

    def remove(self) -> None:
        """The merge is published, or given up."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_proven(self, shard: MergedShard) -> bool:
        level = self._head["validation"]
        kinds = [kind for kind, levels in PROOFS.items() if level in levels]
        return all(_read(self.folder / f"{shard.file}.{kind}.json") is not None for kind in kinds)


def _head(plan: Plan, request: MergeRequest) -> dict[str, Any]:
    to = plan.destination
    return {
        "key": plan.key,
        "to": [to.kind, to.location] if to else [],
        "validation": request.validation,
        "thorough": request.thorough,
        "device": request.device,
        "version": __version__,
    }


def _sweep(place: Path) -> None:
    """Removes journals that nobody has come back to: the Hub does not keep for long what no commit shows."""
    for head in place.glob(f"*{ENDING}/{HEAD}"):
        with suppress(OSError):
            if time.time() - head.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(head.parent, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, document: dict[str, Any]) -> None:
    """In one step, and on the disk when this returns."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
