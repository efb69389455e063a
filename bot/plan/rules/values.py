"""Rules about the type of a value, by PEFT's own annotations: a string where a number belongs, and the like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bot.plan.known_keys import Key, schema
from bot.plan.rules.rule import Case, Change, Rule, Stop, short

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
TRUE, FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})
# What these say is over when training is: whatever is wrong with them, PEFT's own default does no harm.
DROPOUT = re.compile(r"\w*dropout(_p)?")
TRAINING = re.compile(
    r"\w*dropout(_p)?|rank_dropout_scale|inference_mode|orth_reg_weight|beta[12]|tinit|tfinal|deltaT|total_step|progressbar"
)
# Where PEFT sets the value right by the layer that it finds, or where nothing depends on it any more.
HARMLESS = frozenset({"fan_in_fan_out", "inference_mode"})
# The tensors tell these (`ranks`): magnitudes are there or not, biases are there or not.
TOLD_BY_TENSORS = frozenset({"use_dora", "lora_bias"})
SCALES = frozenset({"lora_alpha", "alpha"})  # annotated int; PEFT divides them, so any number will do
PATTERNS = {"rank_pattern": int, "alpha_pattern": float}


LARGEST = 2**53  # beyond it, PEFT's floats would not hold the number


def is_finite(value: float) -> bool:
    """Whether a float holds the number."""
    return -LARGEST <= value <= LARGEST


def as_number(value: Any) -> int | float | None:
    """The number that a value is or spells; None when it is none, or too large."""
    if isinstance(value, str) and NUMBER.fullmatch(text := value.strip()):
        value = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text) else float(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
        return None
    return value


def as_int(value: Any) -> int | None:
    """The whole number that a value is or spells."""
    number = as_number(value)
    return int(number) if number is not None and number == int(number) else None


def as_bool(value: Any) -> bool | None:
    """The boolean that a value is or spells."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in TRUE else False if word in FALSE else None
    return bool(value) if value in (0, 1) else None


def _training(case: Case) -> Iterator[Change | Stop]:
    for key, known in schema(case.peft_type).items():
        if key not in case.config or not TRAINING.fullmatch(key):
            continue
        value = case.config[key]
        if fits(value, known) and _is_chance(key, value):
            continue
        read = as_bool if "bool" in known.kinds else as_number if "float" in known.kinds else as_int
        meant = read(value)
        if meant is not None and _is_chance(key, meant):
            yield Change(key=key, after=meant, reason="PEFT expects another type here")
        else:
            yield Change(key=key)


def _is_chance(key: str, value: Any) -> bool:
    """Whether a dropout is a probability that PEFT and torch accept; true for everything else."""
    return not DROPOUT.fullmatch(key) or (isinstance(value, int | float) and 0 <= value < 1)


def _booleans(case: Case) -> Iterator[Change | Stop]:
    for key, known in schema(case.peft_type).items():
        value = case.config.get(key)
        if known.kinds != {"bool"} or value is None or isinstance(value, bool):
            continue
        meant = as_bool(value)
        if isinstance(value, str) and meant is False and not _is_told(key, case):
            yield _ambiguous(key, value)
        elif meant is None:
            yield Stop(
                key=key,
                sentence=f"adapter_config.json says {key} = {short(value)} where true or false belongs.",
                advice="Put in the value that the adapter was trained with.",
            )
        else:
            yield Change(key=key, after=meant)


def _is_told(key: str, case: Case) -> bool:
    """Whether something else than the string says that false is right."""
    return key in HARMLESS or (
        key in TOLD_BY_TENSORS and case.weights is not None and bool(case.weights.modules)
    )


def _ambiguous(key: str, value: str) -> Stop:
    return Stop(
        key=key,
        sentence=f"adapter_config.json says {key} = {short(value)}, a string: PEFT takes any string that is not"
        " empty for true, and whoever wrote it meant false.",
        advice=f"Write {key}: true if it was trained by PEFT with this string in its config, else false.",
    )


def _numbers(case: Case) -> Iterator[Change | Stop]:
    for key, known in schema(case.peft_type).items():
        if key not in case.config or not known.kinds & {"int", "float"} or known.kinds & {"list[int]"}:
            continue
        value = case.config[key]
        if fits(value, known) or TRAINING.fullmatch(key) or (key in SCALES and type(value) in (int, float)):
            continue
        is_float = "float" in known.kinds or key in SCALES
        meant = as_number(value) if is_float else as_int(value)
        if meant is not None:
            yield Change(key=key, after=meant)


def _patterns(case: Case) -> Iterator[Change | Stop]:
    if case.peft_type in ("ADALORA", "OSF"):  # masks, and a pattern that may be null
        return
    for key in sorted(PATTERNS.keys() & case.config.keys() & schema(case.peft_type).keys()):
        value = case.config[key]
        if value is None or value in ("", [], False):
            yield Change(key=key, after={}, reason="it is empty, and PEFT wants an object")
            continue
        if not isinstance(value, dict):
            continue
        read = as_int if key == "rank_pattern" else as_number
        meant = {name: read(each) for name, each in value.items()}
        if None not in meant.values() and any(type(meant[n]) is not type(value[n]) for n in value):
            yield Change(
                key=key, after=meant, reason="PEFT computes with these numbers, and does not read strings"
            )


def _finite(case: Case) -> Iterator[Change | Stop]:
    """NaN, infinity and numbers beyond any float, wherever they stand."""
    for key, value in case.config.items():
        if any(isinstance(n, int | float) and not is_finite(n) for n in _leaves(value)):
            yield Stop(
                key=key,
                sentence=f"adapter_config.json holds {short(value)} under {key}, which is no number to merge with.",
                advice="Put in the value that the adapter was trained with.",
                code="config-not-finite",
            )


def _leaves(value: Any) -> Iterator[Any]:
    level = [value]
    while level:
        each = level.pop()
        if isinstance(each, dict | list):
            level.extend(each.values() if isinstance(each, dict) else each)
        else:
            yield each


def _rest(case: Case) -> Iterator[Change | Stop]:
    """Whatever no rule has repaired, and is not of the type that PEFT expects."""
    for key, known in schema(case.peft_type).items():
        value = case.config.get(key)
        if key not in case.config or value is None or fits(value, known) or key in SCALES:
            continue
        if key in PATTERNS or known.kinds == {"bool"} or key in ("peft_type", "task_type"):
            continue
        yield Stop(
            key=key,
            sentence=f"adapter_config.json says {key} = {short(value)} where {wanted(known)} belongs.",
            advice="Put in the value that the adapter was trained with.",
        )


def fits(value: Any, known: Key) -> bool:
    """Whether JSON may hold this value under the key."""
    if value is None:
        return "null" in known.kinds
    if isinstance(value, bool):
        return "bool" in known.kinds
    if isinstance(value, str):
        return "str" in known.kinds
    if isinstance(value, int | float):
        return is_finite(value) and bool(
            known.kinds & ({"int", "float"} if isinstance(value, int) else {"float"})
        )
    if isinstance(value, dict):
        return "dict" in known.kinds
    return any(
        kind == "list"
        or (kind == "list[str]" and _all(value, str))
        or (kind == "list[int]" and _all(value, int))
        for kind in known.kinds
    )


def _all(items: list[Any], kind: type) -> bool:
    return all(isinstance(item, kind) and not isinstance(item, bool) for item in items)


def wanted(known: Key) -> str:
    """The kinds of a key, in words."""
    words = {"int": "a whole number", "float": "a number", "str": "a string", "bool": "true or false"}
    words |= {"dict": "an object", "list[str]": "a list of strings", "list[int]": "a list of whole numbers"}
    return " or ".join(words[kind] for kind in sorted(known.kinds) if kind in words) or "something else"


REFERENCE = "the annotations of PEFT's config classes, bot/plan/schema.json"
VALUES = (
    Rule(
        id="training-value",
        what="dropout and other values of the training that have the wrong type or range",
        sees=_training,
        reason="it acts in training only, and PEFT's default takes its place",
        peft="all",
        reference=REFERENCE,
    ),
    Rule(
        id="boolean",
        what='"true" or 1 where true belongs; "false" where the value cannot matter, or the tensors tell',
        sees=_booleans,
        reason="PEFT tests whether the value is true, which every string is that is not empty",
        peft="all",
        reference=REFERENCE,
    ),
    Rule(
        id="number",
        what='"16" or 16.0 where 16 belongs',
        sees=_numbers,
        reason="PEFT computes with this number, and does not read strings or halves",
        peft="all",
        reference=REFERENCE,
    ),
    Rule(
        id="pattern",
        what="rank_pattern, alpha_pattern: null, or numbers as strings",
        sees=_patterns,
        reason="PEFT expects an object of numbers",
        peft="0.6 and later",
        reference="peft/tuners/lora/config.py, LoraConfig.rank_pattern",
    ),
)
FINITE = Rule(
    id="finite",
    what="NaN, infinity, or a number that no float holds: refused",
    sees=_finite,
    reason="it is no number to merge with",
    peft="all",
    reference="https://www.rfc-editor.org/rfc/rfc8259#section-6",
)
REST = Rule(
    id="type",
    what="any other value of a type that PEFT does not expect: refused",
    sees=_rest,
    reason="PEFT expects another type",
    peft="all",
    reference=REFERENCE,
)
