"""Tensors of a local safetensors folder, memory-mapped: what is not touched is not read."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from bot.errors import InputError
from bot.weights.layout import Layout

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class TensorReader:
    """Reads tensors by name, also from several threads. One shard is mapped at a time, as they are asked for."""

    def __init__(self, folder: Path, *, layout: Layout) -> None:
        self.folder = folder
        self.layout = layout
        self._lock = threading.Lock()
        self._file: str | None = None
        self._handle: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file = self._handle = None

    def read(self, name: str) -> torch.Tensor:
        """The tensor as on disk: its dtype and shape, on the CPU, backed by the mapped file."""
        file = self.layout.files[name]
        with self._lock:
            if file != self._file:
                self._handle = safe_open(self.folder / file, framework="pt", device="cpu")
                self._file = file
            tensor: torch.Tensor = self._handle.get_tensor(name)
        return tensor


def read_tensors(path: Path, *, renamed: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Every tensor of one file; `renamed` gives those another name. Raises InputError when it cannot be read."""
    try:
        return {renamed.get(name, name): tensor for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path.name} cannot be read: {error}.",
            advice="Download or save the file again.",
            code="file-unreadable",
        ) from error
