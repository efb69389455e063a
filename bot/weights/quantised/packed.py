"""Recognises packed weights by their names, shapes and dtypes. No torch, no tensor data.

A packed weight is what a quantised checkpoint stores in place of one weight: its codes, and the tensors that are
needed to read them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bot.weights.header import ITEM_BITS, TensorSpec

Tensors = Mapping[str, TensorSpec]
Kind = Literal["bnb4", "bnb8", "scaled", "mxfp4"]
STATE = re.compile(r"(?P<weight>.+)\.quant_state\.bitsandbytes__(?P<codes>nf4|fp4)")
FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2"})
SCALES = frozenset({"F32", "BF16", "F16", "F8_E8M0"})
# What only a quantised forward needs: how activations and caches are rounded.
ACTIVATIONS = re.compile(r".+[._](input_scale|input_scale_ub|activation_scale|output_scale|[kqv]_scale)")
MARKS = re.compile(
    r".+\.(qweight|qzeros|SCB|CB|absmax|quant_map|nested_absmax|weight_packed|weight_format)|.+\.quant_state\..+"
    r"|.+(_scale_inv|\.weight_scale|\.weight_zero_point|\.weight_g_idx|\.weight_shape)"
)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One packed weight: the weight that it stands for (name, shape, dtype), and where it lies.

    `parts`: role → tensor on disk; `weight` is the codes. `block`: how many rows and columns share a scale, for
    `bnb4` how many elements do. `state`: for `bnb4` what its `quant_state` says.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    parts: dict[str, str]
    block: tuple[int, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)


class UnknownFormatError(Exception):
    """A packed weight is not as its format has it; the text goes into a sentence."""


def first_packed(tensors: Tensors) -> str | None:
    """The first tensor that holds packed weights or their scales, None when all are plain."""
    return next((name for name, spec in tensors.items() if _is_packed(spec, tensors=tensors)), None)


def _is_packed(spec: TensorSpec, *, tensors: Tensors) -> bool:
    whole = spec.dtype[0] in "IU" or spec.dtype == "BOOL"
    if ITEM_BITS[spec.dtype] < 8 or spec.dtype.startswith("F8_") or MARKS.fullmatch(spec.name):
        return True
    if spec.name.endswith("_blocks") and f"{spec.name.removesuffix('_blocks')}_scales" in tensors:
        return whole
    return whole and len(spec.shape) > 1 and spec.name.endswith((".weight", "_proj"))


def activation_scales(tensors: Tensors) -> set[str]:
    """The tensors that say how activations and caches are rounded: a plain forward has no use for them."""
    return {n for n, spec in tensors.items() if math.prod(spec.shape) == 1 and ACTIVATIONS.fullmatch(n)}


def bnb4(tensors: Tensors, *, states: Mapping[str, dict[str, Any]]) -> Iterator[Packed]:
    """Weights of bitsandbytes in 4 bits. `states`: what each `quant_state` tensor says, by its name."""
    for name, state in states.items():
        match = STATE.fullmatch(name)
        if match is None:
            raise UnknownFormatError(f"{name} is no quantisation state")
        weight = match["weight"]
        shape, block = tuple(state["shape"]), state["blocksize"]
        roles = [
            "absmax",
            "quant_map",
            *(["nested_absmax", "nested_quant_map"] if "nested_offset" in state else []),
        ]
        parts = {"weight": weight, "state": name, **{role: f"{weight}.{role}" for role in roles}}
        count = math.prod(shape)
        blocks = -(-count // block)
        sizes = {"absmax": blocks, "quant_map": 16}
        if "nested_offset" in state:
            sizes |= {"nested_absmax": -(-blocks // state["nested_blocksize"]), "nested_quant_map": 256}
        for role, size in sizes.items():
            _need(tensors, parts[role], count=size)
        if weight not in tensors or tensors[weight].size != (count + 1) // 2:
            raise UnknownFormatError(
                f"{weight} does not hold the {count} weights that its quant_state tells of"
            )
        yield Packed(
            name=weight,
            kind="bnb4",
            shape=shape,
            dtype=state["dtype"],
            parts=parts,
            block=(block,),
            state=state,
        )


def bnb8(tensors: Tensors, *, dtype: str) -> Iterator[Packed]:
    """Weights of bitsandbytes in 8 bits: LLM.int8()."""
    for name in (n for n in tensors if n.endswith(".SCB")):
        module = name.removesuffix(".SCB")
        spec = tensors.get(f"{module}.weight")
        if spec is None or spec.dtype != "I8" or len(spec.shape) != 2:
            raise UnknownFormatError(f"{module}.weight is no matrix of 8-bit integers")
        _need(tensors, name, count=spec.shape[0])
        parts = {"weight": spec.name, "scale": name}
        if f"{module}.weight_format" in tensors:
            parts["format"] = f"{module}.weight_format"
        yield Packed(name=spec.name, kind="bnb8", shape=spec.shape, dtype=dtype, parts=parts)


def scaled(
    tensors: Tensors, *, dtype: str, dtypes: frozenset[str], block: tuple[int, int] | None
) -> Iterator[Packed]:
    """Weights that are a tensor of one of `dtypes` times a scale: one for all, for each row, or for each block."""
    for spec in (s for s in tensors.values() if s.dtype in dtypes and len(s.shape) > 1):
        scale = next(
            (tensors[n] for n in (f"{spec.name}_scale_inv", f"{spec.name}_scale") if n in tensors), None
        )
        if scale is None or scale.dtype not in SCALES:
            raise UnknownFormatError(f"{spec.name} has no scale")
        if f"{spec.name}_zero_point" in tensors:
            raise UnknownFormatError(f"{spec.name} has zero points")
        yield Packed(
            name=spec.name,
            kind="scaled",
            shape=spec.shape,
            dtype=dtype,
            parts={"weight": spec.name, "scale": scale.name},
            block=_block(spec, scale=scale, block=block),
        )


def _block(spec: TensorSpec, *, scale: TensorSpec, block: tuple[int, int] | None) -> tuple[int, int]:
    """How many rows and columns share a scale. Raises UnknownFormatError when the shapes do not tell for sure."""
    *lead, rows, columns = spec.shape
    if math.prod(scale.shape) == 1 and not (block and lead):
        return rows, columns
    grid = scale.shape[-2:]
    if len(scale.shape) == len(spec.shape) and list(scale.shape[:-2]) == lead:
        if block and grid == (-(-rows // block[0]), -(-columns // block[1])):
            return block
        plain = {(rows, 1): (1, columns), (1, columns): (rows, 1), (1, 1): (rows, columns)}
        if not block and grid in plain:
            return plain[grid]
    raise UnknownFormatError(
        f"the scale of {spec.name} has the shape {list(scale.shape)}, for {list(spec.shape)}"
    )


def mxfp4(tensors: Tensors, *, dtype: str) -> Iterator[Packed]:
    """Stacked experts in MXFP4, as gpt-oss has them: 32 weights share a scale, and rows are the experts' outputs."""
    for name in (n for n in tensors if n.endswith("_blocks")):
        weight = name.removesuffix("_blocks")
        blocks, scales = tensors[name], tensors.get(f"{weight}_scales")
        fits = blocks.dtype == "U8" and len(blocks.shape) == 4 and blocks.shape[-1] == 16
        if not fits or scales is None or scales.dtype != "U8" or scales.shape != blocks.shape[:-1]:
            raise UnknownFormatError(f"{name} and its scales are not as MXFP4 has them")
        experts, rows, groups, _ = blocks.shape
        parts = {"weight": name, "scale": scales.name}
        yield Packed(name=weight, kind="mxfp4", shape=(experts, groups * 32, rows), dtype=dtype, parts=parts)


def _need(tensors: Tensors, name: str, *, count: int) -> None:
    if name not in tensors or math.prod(tensors[name].shape) != count:
        raise UnknownFormatError(f"{name} is missing or has not {count} entries")
