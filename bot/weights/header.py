"""The header of a safetensors file, parsed as strictly as the format allows. No torch, no tensor data.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from bot.errors import InputError
from bot.weights.files import is_unicode

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})  # what an adapter can be added to without loss
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # what --dtype asks for
MAX_HEADER = 100_000_000  # the reference implementation's own limit
MAX_NAME, MAX_DIMENSIONS = 4096, 64  # far beyond any model, and what is made of them takes no time
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A tensor's entry: `start` and `end` are byte offsets from the start of the file's data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Header:
    """A parsed header: `raw` are its bytes without the length, `tensors` are in order of offset."""

    raw: bytes
    tensors: tuple[TensorSpec, ...]
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def data_start(self) -> int:
        """Where the data starts in the file."""
        return 8 + len(self.raw)

    @property
    def file_size(self) -> int:
        """The size that the file must have."""
        return self.data_start + (self.tensors[-1].end if self.tensors else 0)


def header_length(prefix: bytes, *, file: str, file_size: int) -> int:
    """The header's length in bytes, from the file's first eight. Raises InputError when it cannot be right."""
    if len(prefix) < 8:
        raise broken(file, "it is shorter than eight bytes")
    length = int.from_bytes(prefix[:8], "little")
    if length > MAX_HEADER:
        raise broken(file, f"its header claims {length} bytes")
    if 8 + length > file_size:
        raise broken(file, f"its header claims {length} bytes and the file has {file_size}")
    return length


def parse(raw: bytes, *, file: str, file_size: int) -> Header:
    """Parses the header's JSON. Raises InputError for anything that is not a sound, complete safetensors file."""
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise broken(file, f"its header is no JSON ({error})") from error
    if not isinstance(entries, dict):
        raise broken(file, "its header is no JSON object")
    if b"\\u" in raw and not is_unicode(entries):  # which the reference implementation does not open
        raise broken(file, "its header holds half a character (a lone surrogate)")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise broken(file, "its __metadata__ is no JSON object")
    tensors = sorted((_spec(k, v, file=file) for k, v in entries.items()), key=lambda t: (t.start, t.end))
    _check_offsets(tensors, file=file)
    header = Header(raw=raw, tensors=tuple(tensors), metadata={str(k): str(v) for k, v in metadata.items()})
    if header.file_size != file_size:
        raise broken(
            file, f"it should have {header.file_size} bytes and has {file_size}: truncated or half-written"
        )
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _spec(name: str, entry: Any, *, file: str) -> TensorSpec:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise broken(file, f"the entry of {name!r} is incomplete") from error
    if len(name) > MAX_NAME:
        raise broken(file, f"it has a name of {len(name)} characters")
    numbers = [*shape, start, end] if isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS else [None]
    if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
        raise broken(file, f"the entry of {name!r} has a shape or an offset that is no natural number")
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise broken(file, f"the tensor {name!r} has the unknown dtype {dtype!r}")
    if math.prod(shape) * ITEM_BITS[dtype] != (end - start) * 8:
        raise broken(file, f"the shape of {name!r} does not fit its {end - start} bytes")
    return TensorSpec(name=name, dtype=dtype, shape=tuple(shape), start=start, end=end)


def _check_offsets(tensors: list[TensorSpec], *, file: str) -> None:
    position = 0
    for tensor in tensors:
        if tensor.start != position:
            raise broken(file, f"the data of {tensor.name!r} overlaps another tensor or leaves a hole")
        position = tensor.end


def encode(tensors: list[tuple[str, str, tuple[int, ...]]], *, metadata: dict[str, str]) -> Header:
    """A header for (name, dtype, shape) in the order given, its data aligned to eight bytes as the format advises."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    specs, position = [], 0
    for name, dtype, shape in tensors:
        end = position + math.prod(shape) * ITEM_BITS[dtype] // 8
        specs.append(TensorSpec(name=name, dtype=dtype, shape=shape, start=position, end=end))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return Header(raw=raw, tensors=tuple(specs), metadata=metadata)


def broken(file: str, reason: str) -> InputError:
    """The error for a safetensors file that cannot be parsed."""
    return InputError(
        f"{file} is no readable safetensors file: {reason}.",
        advice="Download or save the file again; a Git LFS pointer needs `git lfs pull`.",
        code="safetensors-broken",
    )
