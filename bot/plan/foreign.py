"""Files of other software under the name adapter_config.json: which one wrote it, and what to do with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bot.errors import RefusedError

Config = dict[str, Any]


@dataclass(frozen=True)
class Software:
    """A program that writes a file of this name: how it is known, and what leads from it to a merge."""

    name: str
    wrote: Callable[[Config], bool]
    advice: str


def _has(*keys: str) -> Callable[[Config], bool]:
    return lambda config: any(key in config for key in keys)


KNOWN = (
    Software(
        "mlx-lm",
        _has("lora_parameters", "fine_tune_type"),
        "Merge it where it was trained: `mlx_lm.fuse --model … --adapter-path …` writes a complete model.",
    ),
    Software(
        "AdapterHub's adapters library",
        lambda c: str(c.get("version")).startswith("adapters.") or {"model_class", "model_name"} <= c.keys(),
        "Its bottleneck adapters have layers of their own, which no weight of the base can hold; its LoRA merges with"
        " `model.merge_adapter(name)` there.",
    ),
    Software(
        "OpenDelta",
        _has("unfrozen_modules", "backbone_class", "delta_type"),
        "Load it with OpenDelta; its layers are none of PEFT's.",
    ),
    Software(
        "LeRobot",
        lambda c: str(c.get("base_model")).startswith("lerobot/") or "policy_type" in c,
        "It belongs to a robot policy: load it with LeRobot, which transformers is no part of.",
    ),
    Software(
        "Tinker",
        lambda c: {"r", "lora_alpha"} <= c.keys() and "target_modules" not in c,
        "Convert it first: `tinker_cookbook.weights.build_lora_adapter` writes PEFT's format, `build_hf_model` a merged"
        " model.",
    ),
)


def refusal(config: Config) -> RefusedError:
    """The refusal of a config without a peft_type, which names the software if it is known."""
    found = next((software for software in KNOWN if software.wrote(config)), None)
    if found is None:
        return RefusedError(
            "adapter_config.json has no peft_type and no keys of a PEFT type, so it was not written by PEFT.",
            advice="Convert the adapter to PEFT's format with the software that wrote it.",
            code="not-peft",
        )
    return RefusedError(
        f"adapter_config.json was written by {found.name}, not by PEFT.", advice=found.advice, code="not-peft"
    )
