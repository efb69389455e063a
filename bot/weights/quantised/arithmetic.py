"""Dequantises a packed weight block by block, in float32, rounded once to the weight's dtype.

Sources: QLoRA (arXiv:2305.14314, appendix E: the codes of NF4), LLM.int8() (arXiv:2208.07339), the OCP Microscaling
Formats specification (MXFP4: E2M1 codes, one E8M0 exponent for 32 of them), DeepSeek-V3 (arXiv:2412.19437, section
3.3: FP8 in blocks). The tests hold each of them against bitsandbytes and transformers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bot.errors import RefusedError
from bot.weights.quantised.packed import Packed
from bot.weights.reader import TORCH_DTYPES

# The number of the first element, and elements of the weight from there on, in its dtype.
Block = tuple[int, Tensor]
Read = Callable[[str], Tensor]

ELEMENTS = 2**20  # of a block: its copies in float32 are all the memory that is needed
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)  # of twelve, then the same below zero
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
INT8 = 7.874015718698502e-3  # 1/127, as the library has it
BIAS = 127  # of an E8M0 exponent


def dequantised(packed: Packed, *, read: Read) -> Iterator[Block]:
    """The weight's blocks, in the order of its elements. `read` gives a stored tensor by its name.

    Raises RefusedError for codes of another table and for values that do not fit into the weight's dtype.
    """
    way = {"bnb4": _bnb4, "bnb8": _bnb8, "scaled": _scaled, "mxfp4": _mxfp4}[packed.kind]
    dtype = TORCH_DTYPES[packed.dtype]
    for first, values in way(packed, read):
        rounded = values.to(dtype)
        # The extremes tell for all: a NaN is one, too.
        if rounded.numel() and not torch.stack(torch.aminmax(rounded)).isfinite().all():
            raise RefusedError(
                f"The dequantised {packed.name} holds values that {packed.dtype} cannot.",
                advice="Name the full-precision model with --base.",
                code="quantization-not-finite",
            )
        yield first, rounded


def _bnb4(packed: Packed, read: Read) -> Iterator[Block]:
    """Two codes a byte, the first one in the high half; a block of elements in a row shares its largest value."""
    table = torch.tensor(NF4) if packed.state["quant_type"] == "nf4" else _signed(FP4) / 12
    if not torch.equal(read(packed.parts["quant_map"]).float().flatten(), table):
        raise _another_table(packed)
    codes = read(packed.parts["weight"]).contiguous().reshape(-1).view(torch.uint8)
    pairs = _pairs(table.repeat_interleave(16), table.repeat(16))
    largest, block = _largest(packed, read), packed.block[0]
    count = torch.Size(packed.shape).numel()
    for first in range(0, count, ELEMENTS):  # a multiple of every block's size
        last = min(first + ELEMENTS, count)
        values = _looked_up(codes[first // 2 : (last + 1) // 2], pairs)[: last - first]
        shared, whole = largest[first // block :], (last - first) // block
        values[: whole * block].view(-1, block).mul_(shared[:whole, None])
        values[whole * block :].mul_(shared[whole : whole + 1])  # the last one may be cut
        yield first, values


def _largest(packed: Packed, read: Read) -> Tensor:
    """The largest absolute value of each block, (blocks,); with double quantisation these are quantised again."""
    stored = read(packed.parts["absmax"]).flatten()
    if "nested_absmax" not in packed.parts:
        return stored.float()
    nested, codes = (read(packed.parts[role]).float() for role in ("nested_absmax", "nested_quant_map"))
    shared = nested.flatten().repeat_interleave(packed.state["nested_blocksize"])[: stored.numel()]
    return codes.flatten()[stored.long()] * shared + torch.tensor(packed.state["nested_offset"])


def _bnb8(packed: Packed, read: Read) -> Iterator[Block]:
    """Rows of 8-bit integers, each with its largest absolute value."""
    if "format" in packed.parts and int(read(packed.parts["format"])) != 0:
        raise _another_table(packed)
    codes, largest = read(packed.parts["weight"]), read(packed.parts["scale"]).float().reshape(-1, 1)
    for first, last in _rows(*packed.shape):
        yield first * packed.shape[1], codes[first:last] * largest[first:last] * INT8


def _scaled(packed: Packed, read: Read) -> Iterator[Block]:
    """A tensor times its scale; `packed.block` rows and columns share one."""
    *_, rows, columns = packed.shape
    codes = read(packed.parts["weight"]).reshape(-1, rows, columns)
    high, wide = packed.block
    scales = (
        read(packed.parts["scale"]).float().reshape(codes.shape[0], -(-rows // high), -(-columns // wide))
    )
    across = torch.arange(columns) // wide
    for index, (matrix, scale) in enumerate(zip(codes, scales, strict=True)):
        for first, last in _rows(rows, columns):
            down = torch.arange(first, last) // high
            grid = scale[down[0] : down[-1] + 1].index_select(1, across).index_select(0, down - down[0])
            yield (index * rows + first) * columns, grid.mul_(matrix[first:last].float())


def _mxfp4(packed: Packed, read: Read) -> Iterator[Block]:
    """Two codes a byte, the first one in the low half; stored by output, used by input: turned over."""
    table = _signed(E2M1)
    pairs = _pairs(table.repeat(16), table.repeat_interleave(16))
    experts, columns, rows = packed.shape
    codes, scales = read(packed.parts["weight"]), read(packed.parts["scale"])
    for index in range(experts):
        values = _looked_up(codes[index].reshape(-1), pairs).view(-1, 32)
        exponents = scales[index].reshape(-1, 1).int() - BIAS
        yield index * rows * columns, torch.ldexp(values, exponents).view(rows, columns).T.contiguous()


def _pairs(first: Tensor, second: Tensor) -> Tensor:
    """The two values of each byte, (256,), side by side in one word: one look-up gives both."""
    return torch.stack((first, second), dim=1).view(torch.int64).flatten()


def _looked_up(codes: Tensor, pairs: Tensor) -> Tensor:
    """The values of the bytes, in float32, twice as many."""
    return pairs.index_select(0, codes.int()).view(torch.float32)


def _rows(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, ELEMENTS // max(columns, 1))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)


def _signed(half: tuple[float, ...]) -> Tensor:
    values = torch.tensor(half)
    return torch.cat((values, -values))


def _another_table(packed: Packed) -> RefusedError:
    return RefusedError(
        f"{packed.name} is quantised with codes that bitsandbytes does not have by itself.",
        advice="Name the full-precision model with --base.",
        code="quantization-unknown",
    )
