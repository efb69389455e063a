"""Pickle weights (`.bin`): looked at without running anything they ask for, and written anew as safetensors.

Only for files that somebody allowed (`--allow-pickle`). To plan, the zip's directory and its `data.pkl` are read, no
tensor data; `torch.load(weights_only=True)` interprets them on the meta device. To merge, one file at a time is mapped
(`mmap=True`) and written tensor by tensor.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any, TypeGuard

import torch

from bot.errors import RefusedError
from bot.progress import Progress
from bot.weights.archive import broken
from bot.weights.header import Header, encode
from bot.weights.reader import TORCH_DTYPES
from bot.weights.writer import ShardWriter

NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()} | {
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64",
}  # fmt: skip


def header_of(outline: bytes, label: str) -> Header:
    """The safetensors header of an archive whose records are empty (`bot.weights.archive`).

    Tensors that share their storage become tensors of their own. Raises InputError for what torch cannot load,
    RefusedError for what is no plain table of tensors.
    """
    return _header(_load(io.BytesIO(outline), label=label, map_location="meta"), label=label)


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
        raise broken(label, f"torch cannot load it ({_first_line(error)})") from error
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
        raise broken(label, "it holds no tensor")
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
        raise broken(str(path), "its tensors are not those that it had when the merge was planned")
    with ShardWriter(out, header=header) as writer:
        for spec in header.tensors:
            data = tensors[spec.name].contiguous().reshape(-1).view(torch.uint8)
            writer.write(spec, data.numpy())
            progress.advance(spec.size)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(".")[:200]
