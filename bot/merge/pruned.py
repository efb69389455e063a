"""AdaLoRA's layers at the ranks that its training has left them: PEFT cuts the factors when it saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel

Masks = Mapping[str, Sequence[bool]]
FACTOR = "lora_E"


def prune(peft_model: PeftModel, masks: Masks, *, adapter: str) -> None:
    """Gives each layer that a mask names as many ranks as the mask keeps.

    PEFT's `resize_modules_by_rank_pattern` (peft/tuners/adalora/model.py) on layers without storage, where a mask
    cannot be an index. The scale stays what it was in training, over the rank before.

    Raises LookupError or AttributeError for a module that the model has not, ValueError for a mask of another length.
    """
    config: Any = peft_model.peft_config[adapter]
    for name, mask in masks.items():
        layer = pruned_layer(peft_model, name)
        if len(mask) != layer.r[adapter]:
            raise ValueError(f"the mask of {name} has {len(mask)} entries, init_r is {layer.r[adapter]}")
        before = layer.ranknum[adapter]
        layer.update_layer(adapter, sum(mask), config.lora_alpha, config=config)
        if any(mask):
            layer.ranknum[adapter] = before


def pruned_layer(peft_model: PeftModel, name: str) -> Any:
    """The layer of a mask, which is named by its parameter, in some files with the adapter's name behind.

    Raises LookupError or AttributeError for one that the model has not.
    """
    module, found, _ = name.rpartition(f".{FACTOR}")
    if not found:
        raise LookupError(f"rank_pattern names {name}, which is no {FACTOR}")
    return peft_model.get_submodule(f"base_model.model.{module}")
