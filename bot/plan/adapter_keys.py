"""Tensor names in adapter files that PEFT's own loader would pass over without a word, brought to PEFT's form."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bot.errors import RefusedError
from bot.weights.header import FLOATS, TensorSpec

PREFIX = "base_model.model."
# What torch.compile, FSDP and activation checkpointing put into names when a model is saved from inside of them.
WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
# The adapter's name, which PEFT takes out when it saves and puts in when it loads.
ADAPTER_NAME = re.compile(
    r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)\.default(?=\.|$)"
)
SAVED_MODULE = re.compile(r"\.modules_to_save\.default(?=\.)")


def renames(names: Iterable[str]) -> dict[str, str]:
    """The names that have to change, and what to. Raises RefusedError when two tensors would get one name."""
    found: dict[str, str] = {}
    for name in names:
        new = canonical(name)
        if new in found:
            raise RefusedError(
                f"The adapter tensors {found[new]} and {name} are the same one under two names.",
                advice="Save the adapter again with PEFT's save_pretrained.",
                code="contradiction",
            )
        found[new] = name
    return {old: new for new, old in found.items() if new != old}


def check_dtypes(tensors: Iterable[TensorSpec]) -> None:
    """Raises RefusedError for a factor of LoRA that is not stored as floats: what it stands for is not known."""
    for spec in tensors:
        if ".lora_" in spec.name and spec.dtype not in FLOATS:
            raise RefusedError(
                f"The adapter tensor {spec.name} is stored as {spec.dtype}.",
                advice="Save the adapter again in float32, bfloat16 or float16.",
                code="adapter-dtype",
            )


def canonical(name: str) -> str:
    """The name as PEFT would have saved it."""
    name = WRAPPERS.sub("", name).removeprefix(".")
    name = re.sub(r"^(module\.)+", "", name)  # DistributedDataParallel's
    name = re.sub(rf"^({PREFIX})+(?={PREFIX})", "", name)
    if not name.startswith("base_model."):
        name = PREFIX + name
    name = ADAPTER_NAME.sub(r".\1", SAVED_MODULE.sub("", name))
    name = re.sub(r"\.bone_block(?=\.|$)", ".miss_block", name)  # BONE's name for what PEFT 0.19 calls MiSS
    return re.sub(r"(\.lora_magnitude_vector)\.weight$", r"\1", name)
