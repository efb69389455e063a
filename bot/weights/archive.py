"""The zip archive of a pickle file (`.bin`), read in ranges: its directory and `data.pkl`, no tensor data. No torch.

What the pickle says is for `bot.weights.pickled`, in a process of its own.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bot.errors import InputError
from bot.weights.files import Files
from bot.weights.header import Header
from bot.weights.layout import INDEX, PICKLE, SINGLE, Layout, Shard, pickle_shards

MAX_PICKLE = 32_000_000  # bytes of data.pkl: some 150 a tensor, so this is far beyond any model
BUFFER = 65_536
KEPT = frozenset({"version", "byteorder"})  # the small records that torch.load asks for
Interpret = Callable[[bytes, str], Header]


def read_pickled_layout(files: Files, *, interpret: Interpret) -> tuple[Layout, dict[str, str]]:
    """The layout that the base has once it is safetensors, and each of those files' pickle file.

    `interpret`: see `read_pickled_header`.

    Raises InputError for files that are missing or broken, RefusedError for what is no plain table of tensors.
    """
    sizes = files.sizes()
    weight_map = pickle_shards(files, sizes=sizes)
    pickles = sorted(set(weight_map.values())) if weight_map else [PICKLE]
    names = [SINGLE] if not weight_map else [
        f"model-{i:05d}-of-{len(pickles):05d}.safetensors" for i in range(1, len(pickles) + 1)
    ]  # fmt: skip
    shards = tuple(
        Shard(file=name, header=read_pickled_header(files, source, interpret=interpret))
        for name, source in zip(names, pickles, strict=True)
    )
    origins = dict(zip(names, pickles, strict=True))
    found = {t.name: origins[s.file] for s in shards for t in s.header.tensors}
    if weight_map and (found != weight_map or len(found) != sum(len(s.header.tensors) for s in shards)):
        odd = min(set(found.items()) ^ set(weight_map.items()), default=("a tensor in two shards",))[0]
        raise broken(files.name, f"index and shards do not agree on {odd!r}")
    return Layout(shards, _index(shards) if weight_map else None), origins


def _index(shards: tuple[Shard, ...]) -> str:
    total = sum(t.size for s in shards for t in s.header.tensors)
    weight_map = {t.name: s.file for s in shards for t in s.header.tensors}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def read_pickled_header(files: Files, name: str, *, interpret: Interpret) -> Header:
    """The safetensors header of a pickle file's tensors, the wider dtypes first, so that all of them are aligned.

    `interpret` makes it from the archive without its data (`bot.weights.pickled.header_of`), given what to call the
    file. Raises like `read_pickled_layout`.
    """
    label = f"{files.name}/{name}"
    try:
        outline = _outline(files, name)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, ValueError) as error:
        raise broken(
            label, "it is no zip archive: truncated, a Git LFS pointer, or older than torch 1.6"
        ) from error
    return interpret(outline, label)


class _Ranged(io.RawIOBase):
    """A file that is read in ranges, wherever it lies."""

    def __init__(self, files: Files, name: str) -> None:
        self._files, self._name, self._size, self._at = files, name, files.sizes()[name], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise ValueError("a place before the file's start")
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        data = self._files.read(self._name, start=self._at, end=end) if end > self._at else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _outline(files: Files, name: str) -> bytes:
    """The archive with every tensor's record empty: all that torch.load needs on the meta device."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BufferedReader(_Ranged(files, name), BUFFER)) as source,
        zipfile.ZipFile(buffer, "w") as target,
    ):
        entries = source.infolist()
        records = [entry.filename.partition("/")[2] for entry in entries]
        if records.count("data.pkl") != 1 or len(set(records)) != len(records):
            raise zipfile.BadZipFile("not the records that torch writes")
        for entry, record in zip(entries, records, strict=True):
            if entry.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile("torch never compresses")
            whole = record == "data.pkl" or record in KEPT
            if whole and entry.file_size > MAX_PICKLE:
                raise zipfile.BadZipFile(f"{record} has {entry.file_size} bytes")
            if whole or record.startswith("data/"):
                target.writestr(entry.filename, source.read(entry) if whole else b"")
    return buffer.getvalue()


def link_rest(names: list[str], *, source: Path, out: Path) -> None:
    """Puts links to the other files of the folder `source` beside converted weights."""
    for name in names:
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to((source / name).absolute())


def write_index(layout: Layout, *, out: Path) -> None:
    """Writes the converted shards' index, if they have one."""
    if layout.index is not None:
        (out / INDEX).write_text(layout.index, encoding="utf-8")


def broken(label: str, reason: str) -> InputError:
    """The error for a file of weights that cannot be loaded."""
    return InputError(
        f"{label} is no readable file of weights: {reason}.",
        advice="Download it again, or load and save the model with a current torch.",
        code="pickle-broken",
    )
