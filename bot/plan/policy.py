"""What this release merges: one pure function over the patched config. The rest is refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bot.errors import RefusedError
from bot.plan import foreign
from bot.plan.peft_types import MERGED, REFUSED

UNSUPPORTED = {
    "use_qalora": "QALoRA, which adds to groups of inputs of a quantised base",
    "alora_invocation_tokens": "aLoRA, which is active only after its invocation tokens",
    "layer_replication": "layer replication, which makes another model of the base",
    "arrow_config": "Arrow, which chooses among several adapters for each token",
}
# What these do to the base's weights cannot be done again: it needs data, gradients or random numbers of the training.
IRREPRODUCIBLE = {
    "corda": "CorDA",
    "loftq": "LoftQ",
    "lora_ga": "LoRA-GA",
    "pissa_niter": "PiSSA by a randomised decomposition (pissa_niter)",
}
INITS = (True, False, None, "gaussian", "eva", "orthogonal", "pissa", "olora", "mica")
BOOLEANS = ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias", "ensure_weight_tying")
PATTERNS = ("rank_pattern", "alpha_pattern")


def check(config: Mapping[str, Any]) -> None:
    """Raises RefusedError unless the config describes an adapter that this release merges exactly."""
    _check_type(config)
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            raise _unsupported(what)
    _check_init(config.get("init_lora_weights", True))
    for key in BOOLEANS:
        if not isinstance(config.get(key) or False, bool):  # null is false to PEFT
            raise _wrong(key, config[key], "true or false")
    _check_patterns(config)
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        raise _wrong("bias", config["bias"], '"none", "all" or "lora_only"')
    _check_scale(config)


def _check_type(config: Mapping[str, Any]) -> None:
    peft_type = config.get("peft_type")
    if not peft_type:
        raise foreign.refusal(dict(config))
    if peft_type in REFUSED:
        raise RefusedError(
            f"Adapters of the PEFT type {peft_type} cannot be merged: {REFUSED[peft_type]}.",
            advice="Deploy it as an adapter: PEFT loads it onto the base.",
            code="peft-type-not-mergeable",
        )
    if peft_type not in MERGED:
        raise RefusedError(
            f"The PEFT type {peft_type!r} is not known here.",
            advice="Check peft_type; a newer release of this bot may know it.",
            code="peft-type-unknown",
        )


def _check_init(init: Any) -> None:
    for name, what in IRREPRODUCIBLE.items():
        if isinstance(init, str) and init.startswith(name):
            raise _unsupported(
                f"{what}, which has changed the base's weights in a way that cannot be done again",
                advice=_remedy(name),
            )
    if not any(init is known or init == known for known in INITS):
        raise _wrong("init_lora_weights", init, "an initialisation that PEFT knows")


def _check_scale(config: Mapping[str, Any]) -> None:
    if config["peft_type"] != "LORA":
        return
    for key in ("r", "lora_alpha"):
        if key in config and not _is_number(config[key]):
            raise _wrong(key, config[key], "a number")
    for rank in (config.get("r", 8), *(config.get("rank_pattern") or {}).values()):
        if isinstance(rank, float):  # whole ones are integers by now, see bot.plan.patches
            raise _wrong("r", rank, "a whole number")
    if "lora_alpha" not in config:  # PEFT would take 8, whatever it was
        raise _wrong("lora_alpha", None, "a number: without it the scale of the adapter is unknown")


def _check_patterns(config: Mapping[str, Any]) -> None:
    for key in PATTERNS:
        pattern, masks = config.get(key) or {}, config["peft_type"] == "ADALORA" and key == "rank_pattern"
        if not isinstance(pattern, dict) or not all(
            (_is_mask if masks else _is_number)(v) for v in pattern.values()
        ):
            raise _wrong(key, pattern, "an object of " + ("lists of true and false" if masks else "numbers"))


def _is_mask(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, bool) for each in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _remedy(init: str) -> str:
    """What would make a start exact that cannot be done again."""
    residual = "the residual base that was trained on with --base"
    if init == "loftq":  # its residual is a quantised matrix, which the initial adapter does not tell
        return f"Name {residual}."
    return f"Name the adapter that was saved before the first step with --initial-adapter, or {residual}."


NO_REMEDY = "Nothing is approximated here: merge it with the software that trained it, and check its logits."


def _unsupported(what: str, *, advice: str = NO_REMEDY) -> RefusedError:
    return RefusedError(
        f"The adapter uses {what}; this release cannot merge that exactly.",
        advice=advice,
        code="feature-unsupported",
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _wrong(key: str, value: Any, wanted: str) -> RefusedError:
    return RefusedError(
        f"adapter_config.json says {key} = {_short(value)} where {wanted} belongs.",
        advice="Put in the value that the adapter was trained with.",
        code="config-value",
    )
