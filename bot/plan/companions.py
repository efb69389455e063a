"""Weights that trainers write beside an adapter and PEFT does not know: without them it is not what was trained."""

from __future__ import annotations

from bot.errors import RefusedError
from bot.weights.files import Files

# Parts of the model that were trained whole, by the file's name: who writes it, and what is in it.
TRAINED = {
    "non_lora_trainables.bin": "LLaVA's trainer: the projector, and whatever else was trained without LoRA",
    "non_lora_state_dict.bin": "Qwen2-VL-Finetune: the vision tower or the projector, trained without LoRA",
    "mm_projector.bin": "LLaVA's trainer: the projector",
    "trainable_params.bin": "LongLoRA: embeddings and norms",
    "vit.safetensors": "ms-swift: the vision tower, trained without LoRA",
}
EMPTY = 4096  # bytes: some trainers write the file also when nothing is in it
# A head that scores answers, of no use to the model that gives them.
HEADS = ("value_head.safetensors", "value_head.bin", "v_head.safetensors", "v_head.bin")


def check(files: Files) -> None:
    """Raises RefusedError where a part of the training lies in a file that is none of PEFT's."""
    sizes = files.sizes()
    for name, what in TRAINED.items():
        if sizes.get(name, 0) > EMPTY:
            raise RefusedError(
                f"{files.name} has {name} beside the adapter, as written by {what}: the adapter alone is not what was"
                " trained.",
                advice="Merge both with the software that wrote it; or, if the adapter is meant alone, without the"
                " file: from a copy of the folder.",
                code="weights-beside",
            )


def notes(files: Files) -> list[str]:
    """What there is to say of a value head, which trainers of reward models and PPO write."""
    found = [name for name in HEADS if name in files.sizes()]
    return [f"{found[0]} is not merged: the result has no head that scores answers"] if found else []
