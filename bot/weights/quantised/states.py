"""What bitsandbytes writes beside each 4-bit weight as JSON in a tensor: its shape, dtype and block size. No torch."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bot.errors import InputError
from bot.weights.files import Files
from bot.weights.header import Header, TensorSpec
from bot.weights.layout import Layout
from bot.weights.quantised.packed import STATE

LARGEST = 10_000  # bytes of such a tensor; 166 are usual
READERS = 16  # requests at a time: on the Hub each is a round trip
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
BLOCKS = frozenset({32, 64, 128, 256, 512, 1024, 2048, 4096})


def read_states(files: Files, *, layout: Layout) -> dict[str, dict[str, Any]]:
    """Every quantisation state by the name of its tensor; `dtype` is safetensors' name.

    Raises InputError for one that cannot be read.
    """
    found = [
        (shard.file, shard.header, t)
        for shard in layout.shards
        for t in shard.header.tensors
        if STATE.fullmatch(t.name)
    ]

    def read(place: tuple[str, Header, TensorSpec]) -> tuple[str, dict[str, Any]]:
        file, header, spec = place
        if spec.size > LARGEST:
            raise _broken(files, spec.name)
        start = header.data_start
        return spec.name, _parse(
            files.read(file, start=start + spec.start, end=start + spec.end), files, spec.name
        )

    with ThreadPoolExecutor(READERS) as pool:
        return dict(pool.map(read, found))


def _parse(raw: bytes, files: Files, name: str) -> dict[str, Any]:
    try:
        state = json.loads(raw)
        kind = DTYPES[state["dtype"]]
        shape, block = state["shape"], state["blocksize"]
        sound = isinstance(shape, list) and shape and all(type(n) is int and 0 < n < 2**40 for n in shape)
        sound = sound and block in BLOCKS and name.endswith(f"__{state['quant_type']}")
        if "nested_offset" in state:
            sound = sound and type(state["nested_offset"]) is float and type(state["nested_blocksize"]) is int
            sound = sound and state["nested_blocksize"] > 0
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(files, name) from error
    if not sound:
        raise _broken(files, name)
    return {**state, "dtype": kind}


def _broken(files: Files, name: str) -> InputError:
    return InputError(
        f"The quantisation state {name} of {files.name} cannot be read.",
        advice="Download or save the base again, or name the full-precision model with --base.",
        code="quantization-broken",
    )
