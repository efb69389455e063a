"""Targeted modules that an adapter is no plain change of: those that are never called, or change their input first."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear, MultiheadAttention
from torch import nn

from bot.errors import RefusedError
from bot.merge.skeleton import ADAPTER, PREFIX, Target, targets

# What transformers runs for a quantised model only (Jamba's dt_proj is called there, and read everywhere else).
QUANTISED = re.compile(r'if hasattr\(self\.config, "_is_quantized"\):\n.*\n')
# Values of `init_lora_weights` with which the base stays as it is, and lora_B begins at zero (or at random: False).
UNCHANGED = (True, False, None, "gaussian", "eva")


def check_called(peft_model: PeftModel, *, init: Any) -> list[str]:
    """What there is to say of targeted modules whose parent reads their weight and never calls them.

    PEFT acts when a module is called: there the live adapter does nothing, and a merge would do something (Mamba's
    dt_proj is such a module, and what is below a MultiheadAttention of torch: SigLIP's head). Training leaves such
    factors at zero, which `check_silent` looks at when they are read. Raises RefusedError where factors of zero are no
    change of zero (`init`: the config's `init_lora_weights`), and for modules that are not plain.
    """
    for target in targets(peft_model):
        _check_plain(target)
    silent = list(_silent(peft_model))
    for target in silent:
        layer = target.layer
        plain = type(layer) is Linear and ADAPTER not in layer.lora_variant and not layer.lora_bias[ADAPTER]
        if not plain or init not in UNCHANGED:
            raise _not_called(target, peft_model=peft_model)
    paths = [target.path for target in silent]
    many = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    never = "never called, and so never trained: its factors have to be zero, which the merge looks at"
    return [f"{paths[0]}{many}: {never}"] if paths else []


def check_silent(peft_model: PeftModel, adapter: Mapping[str, torch.Tensor]) -> None:
    """Raises RefusedError when the adapter would change a module that is never called."""
    for target in _silent(peft_model):
        if adapter[f"{PREFIX}{target.path}.lora_B.weight"].any():
            raise _not_called(target, peft_model=peft_model)


def _silent(peft_model: PeftModel) -> Iterator[Target]:
    model = peft_model.get_base_model()
    known: dict[tuple[type[nn.Module], str], bool] = {}
    for target in targets(peft_model):
        parent, _, name = target.path.rpartition(".")
        place = type(model.get_submodule(parent)), name
        if place not in known:
            known[place] = _is_read_only(*place)
        if known[place]:
            yield target


def _is_read_only(parent: type[nn.Module], name: str) -> bool:
    source = QUANTISED.sub("", inspect.getsource(parent))
    return bool(re.search(rf"self\.{name}\.weight\b", source)) and not re.search(rf"self\.{name}\(", source)


def _not_called(target: Target, *, peft_model: PeftModel) -> RefusedError:
    model = type(peft_model.get_base_model()).__name__
    return RefusedError(
        f"The adapter targets {target.path}, which {model} never calls: the adapter has no effect"
        " there, and a merge would have one.",
        advice="Leave it out of target_modules and train again, or remove its tensors and its name.",
        code="module-not-called",
    )


def _check_plain(target: Target) -> None:
    """Raises RefusedError for an embedding with a forward of its own (OPT's offset of two), and for attention of torch.

    PEFT looks up its delta with the input that the module gets; what the module does to it first is no W + delta.
    PEFT 0.21.2 adds the delta of a MultiheadAttention's out_proj twice, in the live model and in its merge.
    """
    if isinstance(target.layer, MultiheadAttention):
        raise RefusedError(
            f"The adapter targets {target.path}, a torch MultiheadAttention, where PEFT adds the delta of out_proj"
            " twice: whether it was trained so depends on the version of PEFT.",
            advice="Deploy it as an adapter, or train again without this module.",
            code="multihead-attention",
        )
    base = target.layer.get_base_layer()
    own = isinstance(base, nn.Embedding) and type(base).forward is not nn.Embedding.forward
    if own and not hasattr(base, "embed_scale"):  # a scale is the one thing that PEFT does as well
        raise RefusedError(
            f"The adapter targets {target.path}, a {type(base).__name__}, which changes its input before it looks it"
            " up: what the adapter does there is no change of its weight.",
            advice="Deploy it as an adapter, or train again without this module.",
            code="module-not-plain",
        )
