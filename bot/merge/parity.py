"""`--parity peft`: the bits that PEFT's `merge_and_unload` gives with default arguments, where they are a right merge.

PEFT keeps the base in its own dtype, computes with adapters in float32, rounds the delta and adds it in place. That
rounding is reproduced here; models that are not base + adapter are not, and are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners._buffer_dict import BufferDict

from bot.errors import RefusedError
from bot.merge import skeleton
from bot.merge.binding import bind
from bot.merge.model import build_virtual, load_config
from bot.merge.pruned import pruned_layer
from bot.records import Bound
from bot.weights.header import FLOATS, TensorSpec
from bot.weights.layout import Layout
from bot.weights.reader import TORCH_DTYPES

WHOLE = frozenset(
    {"replace", "copy", "trainable_tokens"}
)  # rows and tensors taken as they are: right in PEFT, too
NOTE = "parity with PEFT: deltas are rounded as merge_and_unload rounds them, not once at the end"
ADVICE = "Leave out --parity peft: the exact merge is right here."


def dtype_of(layout: Layout) -> torch.dtype:
    """The dtype of the base. Raises RefusedError when its tensors have several: transformers loads them as one."""
    kinds = sorted({t.dtype for t in layout.tensors.values() if t.dtype in FLOATS})
    if len(kinds) != 1:
        raise _refused(
            f"stores tensors as {' and '.join(kinds)}, which transformers loads as one dtype", "dtype"
        )
    return TORCH_DTYPES[kinds[0]]


def bind_as_peft(
    config: dict[str, Any],
    *,
    adapter_config: dict[str, Any],
    tensors: Mapping[str, TensorSpec],
    layout: Layout,
    name: str,
    named: bool,
) -> Bound:
    """The bindings of `bot.merge.binding.bind`, for a merge as PEFT does it.

    `named`: names alone have bound the adapter. Raises RefusedError where PEFT merges something else than the adapter.
    """
    try:
        bound = bind(config, adapter_config=adapter_config, tensors=tensors, layout=layout, name=name)
    except RefusedError as error:
        if not named:
            raise
        raise _refused("drops the experts of this adapter, which are stored one by one", "experts") from error
    if bound.renamed:
        name = next(iter(bound.renamed))
        raise _refused(f"passes over {len(bound.renamed)} tensors with names like {name}", "names")
    if bound.experts:
        raise _refused(
            "reads the experts of this adapter, which are stored as before PEFT 0.19.1, in another order",
            "experts",
        )
    _check_model(bound, config=config, layout=layout)
    return replace(bound, notes=(*bound.notes, NOTE))


def peft_config(config: dict[str, Any]) -> PeftConfig:
    """The config for PEFT's own arithmetic: MiCA's layers round their delta, which plain LoRA's do not."""
    kept = skeleton.peft_config(config)
    if config.get("init_lora_weights") == "mica":
        cast(LoraConfig, kept).init_lora_weights = "mica"
    return kept


def round_generated(model: PeftModel, *, dtype: torch.dtype) -> None:
    """Gives what is drawn from a seed, not stored, the digits of the base: PEFT casts it to that dtype, then up."""
    for module in model.modules():
        if isinstance(module, BufferDict) and not module.persistent:
            for name, buffer in module.items():  # type: ignore[no-untyped-call]
                if buffer.is_floating_point():
                    module[name] = buffer.to(dtype).float()


def round_pruned(model: PeftModel, masks: Iterable[str], *, dtype: torch.dtype) -> None:
    """Gives the factors that AdaLoRA has pruned the digits of the base, as PEFT does when it makes room for them.

    `masks`: their names in the adapter's `rank_pattern`.
    """
    for name in masks:
        for parameter in pruned_layer(model, name).parameters():
            if not parameter.is_meta:
                parameter.data = parameter.data.to(dtype).float()


def _check_model(bound: Bound, *, config: dict[str, Any], layout: Layout) -> None:
    """Nothing tied gets a delta, and what changes is loaded in the dtype on disk: some models keep parts in float32."""
    kind = dtype_of(layout)
    model = build_virtual(
        load_config(config, name="the base"), model_class=bound.model_class, dtype=kind, loaded=True
    )
    tied = {name for pair in model.all_tied_weights_keys.items() for name in pair}
    kept = set(model._keep_in_fp32_modules_strict or ()) if kind != torch.float32 else set()
    kept |= set(model._keep_in_fp32_modules or ()) if kind == torch.float16 else set()
    state = model.state_dict()
    for binding in bound.bindings:
        if binding.parameter in tied and binding.method not in WHOLE:
            raise _refused(f"changes what is tied to {binding.parameter} as well", "tied-weights")
        own = state[binding.parameter].dtype if binding.parameter in state else kind
        if own != kind or any(re.search(rf"(^|\.){re.escape(m)}($|\.)", binding.parameter) for m in kept):
            raise _refused(f"keeps {binding.parameter} in float32, which the base does not", "dtype")


def _refused(what: str, code: str) -> RefusedError:
    return RefusedError(
        f"PEFT's own merge is not to be reproduced here: it {what}.", advice=ADVICE, code=f"parity-{code}"
    )
