"""Repairs of adapter_config.json that cannot change the arithmetic: a table of rules that each see one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bot.errors import RefusedError
from bot.plan.known_keys import known_keys
from bot.records import Patch

Config = dict[str, Any]
REMOVED: Any = None  # what a patch's `after` says of a key that is gone


@dataclass(frozen=True)
class Rule:
    """`sees` yields the keys that the rule removes; `reason` says why that is safe."""

    name: str
    sees: Callable[[Config], Iterator[str]]
    reason: str


def _present(*keys: str) -> Callable[[Config], Iterator[str]]:
    return lambda config: (key for key in keys if key in config)


def _unknown_empty(config: Config) -> Iterator[str]:
    known = known_keys(str(config.get("peft_type")))
    return (key for key, value in config.items() if key not in known and _is_empty(value) and known)


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _is_inert(key: str, value: Any) -> bool:
    """Whether the value is what PEFT writes when nobody has set the key."""
    return _is_empty(value) or (key, value) == ("megatron_core", "megatron.core")


TRAINING_ONLY = ("lora_plus_lr_ratio", "loraplus_lr_ratio")

RULES = (
    Rule(
        "loftq",
        _present("loftq_config"),
        "it only steers how training starts; the trained weights hold the result",
    ),
    Rule(
        "megatron",
        _present("megatron_config", "megatron_core"),
        "it only says how training was spread over machines, and PEFT would import the module that it names",
    ),
    Rule(
        "training-only",
        _present(*TRAINING_ONLY),
        "it sets a learning rate, which the trained weights have behind them",
    ),
    Rule(
        "unknown-empty",
        _unknown_empty,
        "PEFT does not know the key, and its value is empty, so it switches nothing on",
    ),
)


def apply(config: Config) -> tuple[Config, tuple[Patch, ...]]:
    """The patched config and what was patched. Raises RefusedError for an unknown key that says something."""
    patched, patches = dict(config), []
    for rule in RULES:
        for key in list(rule.sees(patched)):
            before = patched.pop(key)
            patch = Patch(rule=rule.name, key=key, before=before, after=REMOVED, reason=rule.reason)
            patches.append(replace(patch, inert=_is_inert(key, before)))
    patched, whole = _whole_ranks(patched)
    patches += whole
    known = known_keys(str(patched.get("peft_type")))
    unknown = sorted(set(patched) - known) if known else []
    if unknown:
        raise RefusedError(
            f"adapter_config.json sets {unknown[0]!r} to {_short(patched[unknown[0]])}, which PEFT does not know:"
            " it may change the arithmetic.",
            advice="Remove the key if it does not, or merge with the software that wrote it.",
            code="unknown-key",
        )
    return patched, tuple(patches)


def _whole_ranks(config: Config) -> tuple[Config, list[Patch]]:
    """Ranks that some software writes as 4.0: PEFT takes integers only."""
    reason = "a rank is a whole number, and PEFT takes it as an integer only"
    pattern = config.get("rank_pattern")
    after = {"r": _whole(config.get("r"))}
    if isinstance(pattern, dict):
        after["rank_pattern"] = {name: _whole(rank) for name, rank in pattern.items()}
    changed = {k: v for k, v in after.items() if k in config and repr(config[k]) != repr(v)}
    patches = [
        Patch(rule="whole-rank", key=k, before=config[k], after=v, reason=reason) for k, v in changed.items()
    ]
    return {**config, **changed}, patches


def _whole(rank: Any) -> Any:
    return int(rank) if isinstance(rank, float) and rank.is_integer() else rank


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
