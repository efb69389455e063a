"""Which tensors a model has on disk and where: shards, headers and index. No torch, no tensor data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from bot.errors import InputError, RefusedError
from bot.weights.files import Files, read_small
from bot.weights.header import Header, TensorSpec, broken, header_length, parse

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
FIRST_READ = 100_000  # what the Hub's own client asks for: most headers fit, so one request is enough
SHARD_NAME = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One safetensors file of a model."""

    file: str
    header: Header


@dataclass(frozen=True)
class Layout:
    """Every shard of a model, in the order of their names; `index` is the index file's text, if there is one."""

    shards: tuple[Shard, ...]
    index: str | None = None

    @cached_property
    def tensors(self) -> dict[str, TensorSpec]:
        """Every tensor by name."""
        return {t.name: t for shard in self.shards for t in shard.header.tensors}

    @cached_property
    def files(self) -> dict[str, str]:
        """The shard of every tensor."""
        return {t.name: shard.file for shard in self.shards for t in shard.header.tensors}

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.size for t in self.tensors.values())


def read_layout(files: Files) -> Layout:
    """The layout of a model's weights.

    Raises InputError for files that are missing or broken, RefusedError when there are no safetensors weights.
    """
    sizes = files.sizes()
    index = (
        read_small(files, INDEX).decode("utf-8", "replace")
        if SINGLE not in sizes and INDEX in sizes
        else None
    )
    names = shard_names(files, sizes=sizes, index=index)
    layout = Layout(tuple(Shard(file=n, header=read_header(files, n, size=sizes[n])) for n in names), index)
    _check_no_duplicates(layout, files=files)
    if index is not None:
        _check_index(layout, index=index, files=files)
    return layout


def shard_names(files: Files, *, sizes: dict[str, int], index: str | None) -> list[str]:
    """The names of the shards, in transformers' order of preference: single file, index, complete set."""
    if SINGLE in sizes:
        return [SINGLE]
    names = (
        sorted(set(weight_map(index, files=files).values())) if index is not None else _complete_set(sizes)
    )
    for name in names:
        if name not in sizes:
            raise _missing(files, name)
    if not names:
        raise no_safetensors(files, sizes=sizes)
    return names


def weight_map(
    index: str, *, files: Files, suffix: str = ".safetensors", name: str = INDEX
) -> dict[str, str]:
    """The index's tensor → shard map, checked to name plain files."""
    try:
        found = json.loads(index)["weight_map"]
        ok = all(
            isinstance(v, str) and PurePosixPath(v).name == v and v.endswith(suffix) for v in found.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise broken(f"{files.name}/{name}", f"its weight map cannot be read ({error})") from error
    if not ok:
        raise broken(f"{files.name}/{name}", "it names a shard outside of its folder")
    return dict(found)


def is_only_pickle(sizes: Mapping[str, int]) -> bool:
    """Whether a model's weights lie there as pickle, and not as safetensors."""
    return not _has_safetensors(sizes) and (PICKLE in sizes or PICKLE_INDEX in sizes)


def _has_safetensors(sizes: Mapping[str, int]) -> bool:
    return SINGLE in sizes or INDEX in sizes or bool(_complete_set(sizes))


def pickle_shards(files: Files, *, sizes: Mapping[str, int]) -> dict[str, str]:
    """The tensor → pickle file map of the index; empty when one file holds all. Raises InputError for a lost shard."""
    if PICKLE in sizes:
        return {}
    index = read_small(files, PICKLE_INDEX).decode("utf-8", "replace")
    found = weight_map(index, files=files, suffix=".bin", name=PICKLE_INDEX)
    for name in found.values():
        if name not in sizes:
            raise _missing(files, name)
    return found


def _complete_set(sizes: Mapping[str, int]) -> list[str]:
    """The shards of a model whose index is lost, if none of them is missing."""
    found = {name: m for name in sizes if (m := SHARD_NAME.fullmatch(name))}
    counts = {int(m[1]) for m in found.values()}
    return sorted(found) if counts == {len(found)} else []


def read_header(files: Files, name: str, *, size: int) -> Header:
    """Reads one file's header in one or two ranges."""
    label = f"{files.name}/{name}"
    start = files.read(name, start=0, end=min(size, FIRST_READ))
    length = header_length(start, file=label, file_size=size)
    raw = start[8 : 8 + length]
    if len(raw) < length:
        raw += files.read(name, start=len(start), end=8 + length)
    return parse(raw, file=label, file_size=size)


def _check_no_duplicates(layout: Layout, *, files: Files) -> None:
    if sum(len(s.header.tensors) for s in layout.shards) != len(layout.tensors):
        raise broken(files.name, "a tensor lies in two shards")


def _check_index(layout: Layout, *, index: str, files: Files) -> None:
    named = weight_map(index, files=files)
    if named != layout.files:
        odd = min(set(named.items()) ^ set(layout.files.items()))[0]
        raise broken(f"{files.name}/{INDEX}", f"index and shards do not agree on {odd!r}")


def _missing(files: Files, name: str) -> InputError:
    return InputError(
        f"{files.name} lacks the shard {name}.",
        advice="Download or save the model again.",
        code="shard-missing",
    )


def no_safetensors(files: Files, *, sizes: Mapping[str, int]) -> RefusedError:
    """The refusal of a model without safetensors weights."""
    if is_only_pickle(sizes):
        return RefusedError(
            f"{files.name} has only pickle weights (pytorch_model*.bin), a format that can carry code.",
            advice="Add --allow-pickle to read them as tensors and nothing else, or name another base with --base.",
            code="base-not-safetensors",
        )
    return RefusedError(
        f"{files.name} has no model.safetensors.",
        advice="Save the model as safetensors (save_pretrained does) or name another base with --base.",
        code="base-not-safetensors",
    )
