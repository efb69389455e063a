"""Rules about which modules the adapter lies on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bot.plan import patterns
from bot.plan.adapter_keys import PREFIX
from bot.plan.known_keys import schema
from bot.plan.rules.rule import Case, Change, Rule, Stop, short

NAME = re.compile(r"['\"]?([A-Za-z_][\w.]*)['\"]?", re.ASCII)
SHORTHAND = "all-linear"  # PEFT's word for every linear layer but the head
ELSEWHERE = ("target_parameters", "trainable_token_indices", "modules_to_save")
LONGEST = (
    5000  # characters of an expression that is looked at here; a longer one is matched in the worker only
)
LONGEST_LIST = 1_000_000  # characters of a list in a string: a second of work


def _as_names(text: Any) -> list[str] | None:
    """The names in a string that was meant as a list; None for anything that a regular expression may be."""
    if not isinstance(text, str) or text == SHORTHAND or len(text) > LONGEST_LIST:
        return None
    inner = text.strip().removeprefix("[").removeprefix("(").removesuffix("]").removesuffix(")").strip()
    parts = [part.split() for part in re.split(r"[,|;]", inner.removesuffix(","))]
    found = [NAME.fullmatch(word) for words in parts for word in words]
    if not all(parts) or not all(found):
        return None
    return [match[1] for match in found if match]


def _string(case: Case) -> Iterator[Change | Stop]:
    for key in ("target_modules", "feedforward_modules", "modules_to_save", "target_parameters"):
        known = schema(case.peft_type).get(key)
        value = case.config.get(key)
        names = _as_names(value)
        if known is None or names is None or "list[str]" not in known.kinds:
            continue
        if key == "target_modules" and case.weights and value in case.weights.modules:
            continue  # as a regular expression it matches this very module
        yield Change(key=key, after=names)


def _prefix(case: Case) -> Iterator[Change | Stop]:
    value = case.config.get("target_modules")
    if not isinstance(value, list) or not all(isinstance(t, str) for t in value):
        return
    if any(t.startswith(PREFIX) for t in value):
        yield Change(key="target_modules", after=list(dict.fromkeys(t.removeprefix(PREFIX) for t in value)))


def _broken(case: Case) -> Iterator[Change | Stop]:
    """Empty, or no regular expression: the tensors name the modules."""
    if "target_modules" not in schema(case.peft_type) or "target_modules" not in case.config:
        return
    value = case.config["target_modules"]
    if value is None or (value == [] and any(case.config.get(key) for key in ELSEWHERE)):
        return
    wrong = "is empty" if value in ([], "", {}) else _not_regex(value)
    if wrong is None:
        return
    if named := _from_weights(case):
        yield Change(
            key="target_modules",
            after=named,
            reason=f"it {wrong}; these are the modules that the tensors name",
        )
    else:
        yield Stop(
            key="target_modules",
            sentence=f"target_modules of adapter_config.json {wrong}, and no LoRA tensors tell the modules.",
            advice="List the modules that the adapter was trained on.",
        )


def _not_regex(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > LONGEST:
        return None
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError, ValueError):
        return "is no list and no regular expression"
    return None


def _from_weights(case: Case) -> list[str]:
    if case.weights is None or case.peft_type != "LORA" or case.weights.is_experts:
        return []
    return sorted(case.weights.modules)


def _layers(case: Case) -> Iterator[Change | Stop]:
    """layers_pattern says nothing without layers_to_transform, and neither goes with a regular expression."""
    config = case.config
    pattern, layers = config.get("layers_pattern"), config.get("layers_to_transform")
    if not {"layers_pattern", "layers_to_transform"} <= schema(case.peft_type).keys():
        return
    if isinstance(config.get("target_modules"), str) and config["target_modules"] and layers is not None:
        yield from _regex_and_layers(case)
    elif pattern and layers is None:
        yield Change(key="layers_pattern")
    elif pattern is not None and not pattern and isinstance(config.get("target_modules"), str):
        yield Change(
            key="layers_pattern", reason="it is empty, and PEFT refuses it beside a regular expression"
        )


def _regex_and_layers(case: Case) -> Iterator[Change | Stop]:
    reason = "PEFT takes layers_to_transform only with a list of names; these are the modules that the tensors name"
    if case.config["layers_to_transform"] == []:
        yield Change(
            key="layers_to_transform", reason="it is empty, and PEFT refuses it beside a regular expression"
        )
    elif named := _from_weights(case):
        yield Change(key="target_modules", after=named, reason=reason)
        for key in ("layers_to_transform", "layers_pattern"):
            if case.config.get(key) is not None:
                yield Change(key=key, reason="target_modules names each module now")
    else:
        yield Stop(
            key="layers_to_transform",
            sentence=f"layers_to_transform {short(case.config['layers_to_transform'])} stands beside a regular"
            " expression in target_modules, which PEFT refuses, and no LoRA tensors tell the modules.",
            advice="Write target_modules as a list, or let its expression name the layers.",
        )


def _no_expression(case: Case) -> Iterator[Change | Stop]:
    """PEFT raises over it as soon as it looks at the first module."""
    for key, text, why in patterns.broken(case.config):
        yield Stop(
            key=key,
            sentence=f"{key} of adapter_config.json holds {short(text)}, which is no regular expression: {why}.",
            advice="Put in the value that the adapter was trained with.",
        )


def _empty_saved(case: Case) -> Iterator[Change | Stop]:
    """modules_to_save that is `{}` or an empty string."""
    value = case.config.get("modules_to_save")
    if value in ("", {}, False) and "modules_to_save" in schema(case.peft_type):
        yield Change(key="modules_to_save", reason="it is empty, and PEFT wants a list")


TARGETS = (
    Rule(
        id="names-in-a-string",
        what='target_modules, modules_to_save or target_parameters as one string of names: "q_proj,v_proj"',
        sees=_string,
        reason="PEFT takes a string for one regular expression of a whole name, which matches no module",
        peft="all",
        reference="peft/tuners/tuners_utils.py, check_target_module_exists",
    ),
    Rule(
        id="target-prefix",
        what="target_modules with base_model.model. in front",
        sees=_prefix,
        reason="the prefix is that of the PEFT model, and PEFT looks for the base model's names",
        peft="all",
        reference="peft/tuners/tuners_utils.py, BaseTuner.inject_adapter",
    ),
    Rule(
        id="targets-from-tensors",
        what="target_modules empty, or a broken regular expression",
        sees=_broken,
        reason="the tensors name the modules",
        peft="all",
        reference="peft/tuners/tuners_utils.py, BaseTuner.inject_adapter",
    ),
    Rule(
        id="layers",
        what="layers_pattern without layers_to_transform; either beside a regular expression",
        sees=_layers,
        reason="PEFT raises for it without layers_to_transform, and it says nothing alone",
        peft="0.4 and later",
        reference="peft/tuners/lora/config.py, LoraConfig.__post_init__",
    ),
    Rule(
        id="saved-empty",
        what="modules_to_save empty, and not a list",
        sees=_empty_saved,
        reason="it is empty, and PEFT wants a list",
        peft="all",
        reference="peft/tuners/lora/config.py, LoraConfig.modules_to_save",
    ),
    Rule(
        id="no-expression",
        what="exclude_modules, layers_pattern, modules_to_save, rank_pattern or alpha_pattern with a broken expression",
        sees=_no_expression,
        reason="PEFT matches it against the names of modules",
        peft="all",
        reference="peft/tuners/tuners_utils.py, check_target_module_exists; peft/utils/other.py, get_pattern_key",
    ),
)
