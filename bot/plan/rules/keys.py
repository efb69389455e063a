"""Rules about keys as such: those that do nothing, those that have another name now, those that PEFT does not know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bot.plan.known_keys import PEFT, known_keys, peft_types
from bot.plan.rules.rule import Case, Change, Rule, Sees, Stop, short

TRAINING_ONLY = ("lora_plus_lr_ratio", "loraplus_lr_ratio")
# (PEFT type, key): the name that the release has for it, and what values are called there if that changed, too.
RENAMED: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("VERA", "init_vera_weights"): ("init_weights", {}),
    ("GRALORA", "gralora_alpha"): ("alpha", {}),
    ("SUPERTUNING", "selection_direction"): ("select_top", {"top": True, "bottom": False}),
}
# Keys of software that goes beyond PEFT under PEFT's names.
FORKS = {
    "r_sum": "O-LoRA",
    "save_loranew": "O-LoRA",
    "alora_invocation_string": "IBM's aLoRA before PEFT 0.18",
}
# Keys that no release has any more, and the last that had them.
GONE = {("LORA", "merge_weights"): "0.2", ("LORA", "enable_lora"): "0.2"}
MERGED_LINEAR = (
    "MergedLinear of PEFT 0.2: it trains parts of a fused layer, and lays its factors out in groups"
)


def is_empty(value: Any) -> bool:
    """Whether the value switches nothing on."""
    return value is None or value is False or value in ("", [], {})


def _is_default(key: str, value: Any) -> bool:
    """Whether the value is what PEFT writes when nobody has set the key."""
    return is_empty(value) or (key, value) == ("megatron_core", "megatron.core")


def _dropped(*keys: str) -> Sees:
    def sees(case: Case) -> Iterator[Change | Stop]:
        for key in keys:
            if key in case.config:
                yield Change(key=key, inert=_is_default(key, case.config[key]))

    return sees


def _renamed(case: Case) -> Iterator[Change | Stop]:
    for (peft_type, old), (new, words) in RENAMED.items():
        if case.peft_type != peft_type or old not in case.config:
            continue
        value = case.config[old]
        after = words.get(value, value) if isinstance(value, str) else value
        if value is None or (new in case.config and case.config[new] == after):
            yield Change(key=old, reason=f"PEFT calls it {new}")
        elif new in case.config or (words and after is value):
            yield Stop(
                key=old,
                sentence=f"adapter_config.json sets {old} to {short(value)} and {new}, as PEFT calls it, to"
                f" {short(case.config.get(new))}.",
                advice=f"Leave {new}, with the value that it was trained with.",
                code="contradiction",
            )
        else:
            yield Change(key=new, after=after, reason=f"{old} is called {new} in PEFT")
            yield Change(key=old, reason=f"PEFT calls it {new}")


def _unknown(case: Case) -> Iterator[Change | Stop]:
    known = known_keys(case.peft_type)
    for key in sorted(set(case.config) - known) if known else ():
        value = case.config[key]
        if is_empty(value):
            yield Change(key=key, inert=True)
        elif (case.peft_type, key) == ("LORA", "enable_lora"):
            yield _enable_lora(value)
        else:
            yield Stop(
                key=key,
                sentence=f"adapter_config.json sets {key!r} to {short(value)}, which PEFT does not know:"
                f" it may change the arithmetic.{_who_knows(key, case)}",
                advice="Remove the key if it does not, or merge with the software that wrote it.",
                code="unknown-key",
            )


def _enable_lora(value: Any) -> Stop:
    return Stop(
        key="enable_lora",
        sentence=f"adapter_config.json sets 'enable_lora' to {short(value)}, which is {MERGED_LINEAR}.",
        advice="Merge it with PEFT 0.2, the last release that has it.",
        code="unknown-key",
    )


def _who_knows(key: str, case: Case) -> str:
    gone = GONE.get((case.peft_type, key))
    if gone:
        return f" PEFT {gone} is the last release that has it."
    written = re.match(r"0\.(\d{1,4})", str(case.config.get("peft_version")))
    if written and int(written[1]) > PEFT:
        return f" The file was written by PEFT 0.{written[1]}, which may know it; this bot knows those of 0.{PEFT}."
    if key in FORKS:
        return f" It is a key of {FORKS[key]}."
    others = sorted(t for t in peft_types() if key in known_keys(t))
    return f" It is a key of {', '.join(others[:3])} and not of {case.peft_type}." if others else ""


KEYS = (
    Rule(
        id="loftq",
        what="loftq_config",
        sees=_dropped("loftq_config"),
        reason="it only steers how training starts; the trained weights hold the result",
        peft="0.7 and later",
        reference="peft/tuners/lora/config.py, LoraConfig.loftq_config",
    ),
    Rule(
        id="megatron",
        what="megatron_config, megatron_core",
        sees=_dropped("megatron_config", "megatron_core"),
        reason="it only says how training was spread over machines, and PEFT would import the module that it names",
        peft="0.7 and later",
        reference="peft/tuners/lora/tp_layer.py, dispatch_megatron",
    ),
    Rule(
        id="runtime",
        what="runtime_config",
        sees=_dropped("runtime_config"),
        reason="it is valid while a model runs and never in a file: PEFT drops it, too",
        peft="0.12 and later",
        reference="peft/config.py, PeftConfigMixin.from_json_file",
    ),
    Rule(
        id="training-only",
        what="lora_plus_lr_ratio, loraplus_lr_ratio",
        sees=_dropped(*TRAINING_ONLY),
        reason="it sets a learning rate, which the trained weights have behind them",
        peft="none has it in a config",
        reference="https://arxiv.org/abs/2402.12354",
    ),
    Rule(
        id="renamed",
        what="a key by a name that it had in a development version",
        sees=_renamed,
        reason="it has another name in PEFT's releases, where the old one is dropped with a warning",
        peft="all",
        reference="peft/tuners/vera/config.py; peft/tuners/gralora/config.py",
    ),
    Rule(
        id="unknown-empty",
        what="a key that PEFT does not know: empty, it goes; else it is refused",
        sees=_unknown,
        reason="PEFT does not know the key, and its value is empty, so it switches nothing on",
        peft="0.14 and later drop it with a warning, earlier ones raise",
        reference="peft/config.py, PeftConfigMixin.from_peft_type",
    ),
)
