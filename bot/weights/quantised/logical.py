"""A quantised base as the plain model that its dequantised weights make: names, shapes, dtypes, config. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bot.errors import RefusedError
from bot.records import ConfigEdit
from bot.weights.files import Files
from bot.weights.header import ITEM_BITS, encode
from bot.weights.layout import Layout, Shard
from bot.weights.quantised.method import Method, can_dequantize, edits, find, model_dtype, without
from bot.weights.quantised.packed import (
    FLOAT8,
    Packed,
    UnknownFormatError,
    activation_scales,
    bnb4,
    bnb8,
    first_packed,
    mxfp4,
    scaled,
)
from bot.weights.quantised.states import read_states
from bot.wording import counted

# transformers turns the weights of these models' Conv1D layers over when bitsandbytes quantises them.
TURNED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"})
NAMES = {"bnb4": "bitsandbytes", "bnb8": "bitsandbytes int8", "mxfp4": "MXFP4"}


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """What is stored, and what it stands for: the plain layout and config.json, with the edits that lead there."""

    stored: Layout
    logical: Layout
    packed: tuple[Packed, ...]
    config: dict[str, Any]
    edits: tuple[ConfigEdit, ...]
    title: str
    note: str


def read_quantised(files: Files, *, config: dict[str, Any], layout: Layout) -> Quantised | None:
    """None for a base in full precision, else what it dequantises to. Reads a few bytes of each 4-bit weight.

    Raises RefusedError for weights that are packed without a word in config.json, or in a way that cannot be undone
    here; InputError for a broken quantisation state.
    """
    method = find(config)
    if method is None:
        _check_plain(files, layout=layout)
        return None
    if not can_dequantize(method):
        raise _cannot(files, method, "which cannot be dequantised here")
    if method.name == "bitsandbytes" and config.get("model_type") in TURNED:
        raise _cannot(files, method, "which stores the weights of this architecture turned over")
    try:
        packed = _packed(files, config=config, layout=layout, method=method)
    except UnknownFormatError as error:
        raise _cannot(files, method, f"and {error}") from error
    if not packed:
        raise _cannot(files, method, "and none of its tensors are in a form that is known here")
    logical = _logical(layout, packed=packed)
    if (odd := first_packed(logical.tensors)) is not None:
        raise _cannot(files, method, f"and {odd} is in a form that is not known here")
    title = _title(method, packed)
    return Quantised(
        stored=layout,
        logical=logical,
        packed=tuple(packed),
        config=without(config),
        edits=edits(config, method=method),
        title=title,
        note=_note(files, title=title, packed=packed),
    )


def _check_plain(files: Files, *, layout: Layout) -> None:
    odd = first_packed(layout.tensors)
    if odd is not None:
        raise RefusedError(
            f"{files.name} holds quantised weights ({odd} is {layout.tensors[odd].dtype}), and its config.json says"
            " nothing about them.",
            advice="Name the full-precision model with --base.",
            code="base-quantized",
        )


def _cannot(files: Files, method: Method, reason: str) -> RefusedError:
    return RefusedError(
        f"{files.name} is quantised by {method.title}, {reason}.",
        advice="Leave out --quantized-base, or name the full-precision model with --base.",
        code="base-quantized",
    )


def _packed(files: Files, *, config: dict[str, Any], layout: Layout, method: Method) -> list[Packed]:
    tensors, dtype = layout.tensors, model_dtype(config)
    if method.name == "bitsandbytes":
        states = read_states(files, layout=layout)
        return [*bnb4(tensors, states=states), *bnb8(tensors, dtype=dtype)]
    if method.name == "mxfp4":
        return list(mxfp4(tensors, dtype=dtype))
    integers = frozenset({"I8"}) if method.name == "compressed-tensors" else frozenset()
    return list(scaled(tensors, dtype=dtype, dtypes=FLOAT8 | integers, block=_block(method)))


def _block(method: Method) -> tuple[int, int] | None:
    """The rows and columns of a block with one scale; None when a scale is for a row or a whole tensor."""
    found = method.settings.get("weight_block_size")
    groups = method.settings.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        found = found or (weights.get("block_structure") if isinstance(weights, dict) else None)
    if isinstance(found, list) and len(found) == 2 and all(type(n) is int and n > 0 for n in found):
        return found[0], found[1]
    return None


def _logical(layout: Layout, *, packed: Iterable[Packed]) -> Layout:
    """The plain layout: each weight where its codes lie, nothing of what belonged to the quantisation."""
    weights = {p.parts["weight"]: p for p in packed}
    hidden = {name for p in weights.values() for name in p.parts.values()}
    if any(p.kind == "scaled" for p in weights.values()):
        hidden |= activation_scales(layout.tensors)
    shards = []
    for shard in layout.shards:
        entries = []
        for spec in shard.header.tensors:
            found = weights.get(spec.name)
            if found is not None:
                entries.append((found.name, found.dtype, found.shape))
            elif spec.name not in hidden:
                entries.append((spec.name, spec.dtype, spec.shape))
        entries.sort(key=lambda e: -ITEM_BITS[e[1]])  # readers want each tensor aligned to its own items
        if entries:  # a shard may have held scales alone
            shards.append(Shard(file=shard.file, header=encode(entries, metadata=shard.header.metadata)))
    plain = Layout(tuple(shards))
    return plain if layout.index is None else Layout(plain.shards, _index(plain))


def _index(layout: Layout) -> str:
    document = {"metadata": {"total_size": layout.total_bytes}, "weight_map": layout.files}
    return json.dumps(document, indent=2) + "\n"


def _title(method: Method, packed: list[Packed]) -> str:
    """What the weights are stored as: `bitsandbytes nf4 with double quantisation`."""
    if packed[0].kind != "bnb4":
        return NAMES.get(packed[0].kind, method.title)
    codes = sorted({str(p.state["quant_type"]) for p in packed if p.state})
    nested = " with double quantisation" if any("nested_offset" in p.state for p in packed) else ""
    return f"bitsandbytes {' and '.join(codes)}{nested}"


def _note(files: Files, *, title: str, packed: list[Packed]) -> str:
    kinds = ", ".join(sorted({p.dtype for p in packed}))
    return (
        f"{files.name} is quantised ({title}): the adapter is merged into its dequantised weights"
        f" ({counted(len(packed), 'tensor')} become {kinds}), not into the model that they were made from"
    )
