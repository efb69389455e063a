"""Writes a quantised base down as the plain model that it dequantises to, one block of one weight at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bot.progress import Progress
from bot.weights.layout import INDEX
from bot.weights.quantised.arithmetic import dequantised
from bot.weights.quantised.logical import Quantised
from bot.weights.reader import TensorReader
from bot.weights.writer import ShardWriter

CONFIG = "config.json"


def write_dequantised(
    out: Path, *, quantised: Quantised, source: Path, beside: Iterable[str], progress: Progress
) -> None:
    """Fills the existing folder `out` with shards, index and config.json, and links to the files `beside`.

    Raises RefusedError for weights that cannot be dequantised, OSError as it comes from the disk.
    """
    packed = {p.name: p for p in quantised.packed}
    progress.begin("Dequantising", total=quantised.logical.total_bytes)
    with TensorReader(source, layout=quantised.stored) as reader:
        for shard in quantised.logical.shards:
            with ShardWriter(out / shard.file, header=shard.header) as writer:
                for spec in shard.header.tensors:
                    if spec.name not in packed:
                        writer.write(spec, _as_bytes(reader.read(spec.name)))
                        progress.advance(spec.size)
                        continue
                    for first, values in dequantised(packed[spec.name], read=reader.read):
                        writer.write(spec, _as_bytes(values), at=first * values.element_size())
                        progress.advance(values.nbytes)
    progress.end()
    if quantised.logical.index is not None:
        (out / INDEX).write_text(quantised.logical.index, encoding="utf-8")
    text = json.dumps(quantised.config, indent=2, ensure_ascii=False)
    (out / CONFIG).write_text(text + "\n", encoding="utf-8")
    for name in beside:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to((source / name).resolve())


def _as_bytes(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The tensor's bytes as on disk: numpy has no bfloat16."""
    array: np.ndarray[Any, Any] = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return array
