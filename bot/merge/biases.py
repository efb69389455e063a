"""Biases that an adapter's config says were trained, and that its file does not hold."""

from __future__ import annotations

from typing import Any

from bot.errors import RefusedError
from bot.merge.model import Names
from bot.merge.operations import Operations


def lost_biases(operations: Operations, *, names: Names, bias: Any) -> list[str]:
    """What there is to say of biases that were trained with lora_only, which many releases of PEFT have not saved.

    Raises RefusedError where PEFT has saved them, and they are gone.
    """
    if bias not in ("all", "lora_only"):
        return []
    touched = {
        p.rpartition(".")[0] for p, operation in operations.of.items() if operation.method != "replace"
    }
    trained = [
        n
        for n in names.shapes
        if n.endswith(".bias") and (bias == "all" or n.removesuffix(".bias") in touched)
    ]
    if not trained or operations.of.keys() & set(trained):
        return []
    if bias == "all":
        raise RefusedError(
            f'adapter_config.json says bias = "all", and the file holds none of the biases, such as {trained[0]}.',
            advice="Save the adapter again from the training run, or set bias to none if it was trained without.",
            code="adapter-tensor-missing",
        )
    return [
        f'bias = "lora_only" has trained {len(trained)} biases, and the file holds none: they stay the base\'s'
    ]
