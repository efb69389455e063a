"""Compares a tensor that was only copied with its original: by bytes, or rounded to the dtype that was asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import torch

from bot.progress import Progress
from bot.weights.header import TensorSpec
from bot.weights.layout import Layout
from bot.weights.reader import TORCH_DTYPES

CHUNK = 8 * 2**20


def place(folder: Path, *, layout: Layout, spec: TensorSpec) -> tuple[Path, int]:
    """The file that holds a tensor, and the offset of its first byte."""
    shard = next(s for s in layout.shards if s.file == layout.files[spec.name])
    return folder / shard.file, shard.header.data_start + spec.start


def compare(
    before: tuple[Path, int], after: tuple[Path, int], *, old: TensorSpec, new: TensorSpec, progress: Progress
) -> tuple[int, int]:
    """How many bytes differ from the base's (rounded to the new dtype), and how many elements became infinite."""
    wrong = infinite = 0
    with before[0].open("rb") as base, after[0].open("rb") as merged:
        for start in range(0, old.size, CHUNK):
            chunk = _read(base, before[1] + start, min(CHUNK, old.size - start))
            if old.dtype != new.dtype:
                chunk, overflow = _rounded(chunk, old=old.dtype, new=new.dtype)
                infinite += overflow
            place = after[1] + start * new.size // old.size
            other = _read(merged, place, len(chunk))
            wrong += 0 if chunk == other else _differing(chunk, other)
            progress.advance(len(chunk))
    return wrong, infinite


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    data = os.pread(file.fileno(), size, offset)
    while len(data) < size:
        more = os.pread(file.fileno(), size - len(data), offset + len(data))
        if not more:
            raise OSError(f"{file.name} ended early: it was changed while it was read")
        data += more
    return data


def _rounded(chunk: bytes, *, old: str, new: str) -> tuple[bytes, int]:
    """The chunk's numbers rounded to the new dtype, and how many of them became infinite."""
    before = torch.frombuffer(bytearray(chunk), dtype=TORCH_DTYPES[old])
    after = before.to(TORCH_DTYPES[new])
    overflow = int((before.isfinite() & after.isfinite().logical_not_()).sum())
    return after.view(torch.uint8).numpy().tobytes(), overflow


def _differing(one: bytes, other: bytes) -> int:
    pair = (torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in (one, other))
    return int(torch.ne(*pair).sum())
