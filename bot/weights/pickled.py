"""Pickle weights (`.bin`): looked at without running anything they ask for, and written anew as safetensors.

Only for files that somebody allowed (`--allow-pickle`). To plan, the zip's directory and its `data.pkl` are read, no
tensor data; `torch.load(weights_only=True)` interprets them on the meta device. To merge, one file at a time is mapped
(`mmap=True`) and written tensor by tensor.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, TypeGuard

import torch

from bot.errors import InputError, RefusedError
from bot.progress import Progress
from bot.weights.files import Files
from bot.weights.header import Header, encode
from bot.weights.layout import INDEX, PICKLE, SINGLE, Layout, Shard, pickle_shards
from bot.weights.reader import TORCH_DTYPES
from bot.weights.writer import ShardWriter

NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()} | {
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip
MAX_PICKLE = 32_000_000  # bytes of data.pkl: some 150 a tensor, so this is far beyond any model
BUFFER = 65_536
KEPT = frozenset({"version", "byteorder"})  # the small records that torch.load asks for


def read_pickled_layout(files: Files) -> tuple[Layout, dict[str, str]]:
    """The layout that the base has once it is safetensors, and each of those files' pickle file.

    Raises InputError for files that are missing or broken, RefusedError for what is no plain table of tensors.
    """
    sizes = files.sizes()
    weight_map = pickle_shards(files, sizes=sizes)
    pickles = sorted(set(weight_map.values())) if weight_map else [PICKLE]
    names = [SINGLE] if not weight_map else [
        f"model-{i:05d}-of-{len(pickles):05d}.safetensors" for i in range(1, len(pickles) + 1)
    ]  # fmt: skip
    shards = tuple(
        Shard(file=name, header=read_pickled_header(files, source))
        for name, source in zip(names, pickles, strict=True)
    )
    origins = dict(zip(names, pickles, strict=True))
    found = {t.name: origins[s.file] for s in shards for t in s.header.tensors}
    if weight_map and (found != weight_map or len(found) != sum(len(s.header.tensors) for s in shards)):
        odd = min(set(found.items()) ^ set(weight_map.items()), default=("a tensor in two shards",))[0]
        raise _broken(files.name, f"index and shards do not agree on {odd!r}")
    return Layout(shards, _index(shards) if weight_map else None), origins


def _index(shards: tuple[Shard, ...]) -> str:
    total = sum(t.size for s in shards for t in s.header.tensors)
    weight_map = {t.name: s.file for s in shards for t in s.header.tensors}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def read_pickled_header(files: Files, name: str) -> Header:
    """The safetensors header of a pickle file's tensors, the wider dtypes first, so that all of them are aligned.

    Tensors that share their storage become tensors of their own. Raises like `read_pickled_layout`.
    """
    label = f"{files.name}/{name}"
    try:
        outline = _outline(files, name)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, ValueError) as error:
        raise _broken(
            label, "it is no zip archive: truncated, a Git LFS pointer, or older than torch 1.6"
        ) from error
    return _header(_load(io.BytesIO(outline), label=label, map_location="meta"), label=label)


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


def _load(source: Any, *, label: str, **options: Any) -> dict[str, torch.Tensor]:
    """The file's table of tensors. Nothing but torch's own tensors is ever made of it."""
    try:
        found = torch.load(source, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {named[1]}" if named else "asks for more than tensors"
        raise RefusedError(
            f"{label} {what} when it is loaded: nothing of it was run, and it is not used.",
            advice="Take the weights from somebody you trust, as safetensors.",
            code="pickle-unsafe",
        ) from error
    except Exception as error:  # a stranger's file can make torch raise anything
        raise _broken(label, f"torch cannot load it ({_first_line(error)})") from error
    if not isinstance(found, dict) or not all(_is_plain(k, v) for k, v in found.items()):
        raise RefusedError(
            f"{label} holds something other than a flat table of named, dense tensors.",
            advice="Load it where it was made and save the model again: save_pretrained writes safetensors.",
            code="pickle-not-plain",
        )
    return found


def _is_plain(name: object, value: object) -> TypeGuard[torch.Tensor]:
    return (
        isinstance(name, str)
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.dtype in NAMES
    )


def _header(tensors: dict[str, torch.Tensor], *, label: str) -> Header:
    if not tensors:
        raise _broken(label, "it holds no tensor")
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    entries = [(name, NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in ordered]
    return encode(entries, metadata={"format": "pt"})


@torch.no_grad()
def convert(path: Path, *, out: Path, header: Header, progress: Progress) -> None:
    """Writes the pickle file at `path` as the safetensors file `out`, which `header` describes.

    The file is mapped: no more than one tensor is in memory. Raises InputError when it is not what `header` says,
    RefusedError as `read_pickled_layout`, OSError as it comes from the disk.
    """
    tensors = _load(path, label=str(path), map_location="cpu", mmap=True)
    if _header(tensors, label=str(path)).raw != header.raw:
        raise _broken(str(path), "its tensors are not those that it had when the merge was planned")
    with ShardWriter(out, header=header) as writer:
        for spec in header.tensors:
            data = tensors[spec.name].contiguous().reshape(-1).view(torch.uint8)
            writer.write(spec, data.numpy())
            progress.advance(spec.size)


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


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".")[:200]


def _broken(label: str, reason: str) -> InputError:
    return InputError(
        f"{label} is no readable file of weights: {reason}.",
        advice="Download it again, or load and save the model with a current torch.",
        code="pickle-broken",
    )
