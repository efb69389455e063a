"""Where rows of a tensor come from: a file, or an array. Nothing is read before it is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bot.weights.floats import RAW, Array, widen
from bot.weights.rows import RowReader

EXPONENTS: dict[str, np.unsignedinteger[Any]] = {
    "F64": np.uint64(0x7FF << 52),
    "F32": np.uint32(0xFF << 23),
    "F16": np.uint16(0x1F << 10),
    "BF16": np.uint16(0xFF << 7),
}


class Source(Protocol):
    """A tensor as a matrix: its first dimension and all others. `dtype` is safetensors' name."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def dtype(self) -> str:
        """The dtype on disk."""

    def raw(self, index: Array) -> Array:
        """The rows of these numbers, ascending, in the dtype on disk (see `bot.weights.floats.RAW`)."""


def wide(source: Source, index: Array) -> Array:
    """Rows of a source as float64, exact."""
    return widen(source.raw(index), source.dtype).astype(np.float64, copy=False)


def everything(source: Source) -> Array:
    """All rows of a source as float64, exact."""
    return wide(source, np.arange(source.shape[0]))


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor of that shape."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def is_finite(raw: Array, dtype: str) -> bool:
    """Whether no element is NaN or infinite: those have all bits of the exponent set."""
    mask = EXPONENTS[dtype]
    bits = raw.view(mask.dtype)
    return bool((bits & mask).max(initial=0) != mask)


@dataclass(frozen=True)
class FileRows:
    """A tensor in a safetensors file. Two of the same tensor are equal."""

    reader: RowReader
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return matrix_shape(self.reader.layout.tensors[self.name].shape)

    @property
    def dtype(self) -> str:
        """The dtype on disk."""
        return self.reader.layout.tensors[self.name].dtype

    def raw(self, index: Array) -> Array:
        """The rows, neighbours read together."""
        return self.reader.gather(self.name, index)


class ArrayRows:
    """A tensor in memory, in the dtype on disk."""

    def __init__(self, array: Array, *, dtype: str) -> None:
        self._matrix = np.asarray(array, dtype=RAW[dtype]).reshape(matrix_shape(array.shape))
        self.shape = matrix_shape(array.shape)
        self.dtype = dtype

    def raw(self, index: Array) -> Array:
        """The rows."""
        rows: Array = self._matrix[index]
        return rows
