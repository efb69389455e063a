"""What this release merges: one pure function over the patched config. The rest is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bot.errors import RefusedError

UNSUPPORTED = {
    "use_qalora": "QALoRA",
    "alora_invocation_tokens": "aLoRA, which is active only after its invocation tokens",
    "layer_replication": "layer replication",
    "use_bdlora": "BD-LoRA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow",
    "lora_ga_config": "LoRA-GA",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "trainable_token_indices": "trainable tokens",
}
INITS = (True, False, None, "gaussian", "eva", "orthogonal")  # these leave the base's weights as they are
BOOLEANS = ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias", "ensure_weight_tying")
PATTERNS = ("rank_pattern", "alpha_pattern")


def check(config: Mapping[str, Any]) -> None:
    """Raises RefusedError unless the config describes an adapter that this release merges exactly."""
    _check_type(config)
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            raise _unsupported(what)
    if config.get("init_lora_weights", True) not in INITS:
        raise _unsupported(
            f"init_lora_weights={config['init_lora_weights']!r}, which changes the base's weights"
        )
    for key in BOOLEANS:
        if not isinstance(config.get(key, False), bool):
            raise _wrong(key, config[key], "true or false")
    for key in PATTERNS:
        _check_pattern(key, config.get(key) or {})
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        raise _wrong("bias", config["bias"], '"none", "all" or "lora_only"')
    _check_scale(config)


def _check_type(config: Mapping[str, Any]) -> None:
    peft_type = config.get("peft_type")
    if peft_type is None:
        raise RefusedError(
            "adapter_config.json has no peft_type, so it was not written by PEFT (mlx-lm and Tinker leave it out).",
            advice="Convert the adapter to PEFT's format with the software that wrote it.",
            code="not-peft",
        )
    if peft_type != "LORA":
        raise RefusedError(
            f"Adapters of the PEFT type {peft_type!r} are not supported yet.",
            advice="This release merges LORA; PEFT's own merge_and_unload knows more types.",
            code="peft-type-unsupported",
        )


def _check_scale(config: Mapping[str, Any]) -> None:
    for key in ("r", "lora_alpha"):
        if key in config and not _is_number(config[key]):
            raise _wrong(key, config[key], "a number")
    if "lora_alpha" not in config:  # PEFT would take 8, whatever it was
        raise _wrong("lora_alpha", None, "a number: without it the scale of the adapter is unknown")


def _check_pattern(key: str, pattern: Any) -> None:
    if not isinstance(pattern, dict) or not all(_is_number(v) for v in pattern.values()):
        raise _wrong(key, pattern, "an object of numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unsupported(what: str) -> RefusedError:
    return RefusedError(
        f"The adapter uses {what}; this release cannot merge that exactly.",
        advice="Nothing is approximated here: merge it with the software that trained it, and check its logits.",
        code="feature-unsupported",
    )


def _wrong(key: str, value: Any, wanted: str) -> RefusedError:
    return RefusedError(
        f"adapter_config.json says {key} = {value!r} where {wanted} belongs.",
        advice="Put in the value that the adapter was trained with.",
        code="config-value",
    )
