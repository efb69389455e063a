"""The table of repairs: each rule sees its key, says why, and leaves everything else alone."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from bot.errors import RefusedError
from bot.plan import patches, policy
from bot.plan.known_keys import known_keys, peft_types, schema
from bot.plan.peft_types import MERGED
from tests.plan.schema import kinds

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


@pytest.mark.parametrize("peft_type", sorted(MERGED))
def test_the_known_keys_are_those_of_the_installed_peft(peft_type: str) -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils.peft_types import PeftType

    assert {f.name for f in fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type)])} == known_keys(peft_type)


def test_the_kinds_of_values_are_those_of_the_installed_peft() -> None:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    assert peft_types() == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        told = {f.name: frozenset(kinds(f.type).split()) for f in fields(config)}
        assert told == {name: key.kinds for name, key in schema(kind.value).items()}, kind


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loftq_config", {}),
        ("loftq_config", {"loftq_bits": 4, "loftq_iter": 1}),
        ("megatron_config", {"tensor_model_parallel_size": 2}),
        ("megatron_core", "megatron.core"),
        ("merge_weights", False),
        ("enable_lora", None),
        ("from_the_future", []),
        ("lora_plus_lr_ratio", 16),
    ],
)
def test_keys_that_are_removed(key: str, value: Any) -> None:
    patched, found = patches.apply({**PLAIN, key: value})
    assert patched == PLAIN
    assert [(p.key, p.before, p.after) for p in found] == [(key, value, None)]
    assert found[0].reason


@pytest.mark.parametrize(
    ("key", "value", "inert"),
    [
        ("loftq_config", {}, True),
        ("loftq_config", {"loftq_bits": 4}, False),
        ("megatron_config", None, True),
        ("megatron_config", {"tensor_model_parallel_size": 2}, False),
        ("megatron_core", "megatron.core", True),
        ("megatron_core", "evil.module", False),
        ("merge_weights", False, True),
        ("lora_plus_lr_ratio", 16, False),
    ],
)
def test_defaults_that_do_nothing_are_told_from_what_somebody_has_set(
    key: str, value: Any, inert: bool
) -> None:
    _, found = patches.apply({**PLAIN, key: value})
    assert [p.inert for p in found] == [inert]


def test_whole_ranks_become_integers() -> None:
    patched, found = patches.apply({**PLAIN, "r": 8.0, "rank_pattern": {"q": 4.0, "k": 2}})
    assert repr(patched["r"]) == "8"
    assert repr(patched["rank_pattern"]) == "{'q': 4, 'k': 2}"
    assert [(p.rule, p.key) for p in found] == [("number", "r"), ("pattern", "rank_pattern")]
    assert patches.apply({**PLAIN, "r": "8"})[0]["r"] == 8


def test_an_intact_config_stays_as_it_is() -> None:
    assert patches.apply(PLAIN) == (PLAIN, ())


@pytest.mark.parametrize("value", [True, 8, "x", [1], {"a": 1}, 0])
def test_an_unknown_key_that_says_something_is_refused_by_name(value: Any) -> None:
    with pytest.raises(RefusedError, match="use_magic"):
        patches.apply({**PLAIN, "use_magic": value})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"peft_type": None}, "not-peft"),
        ({"peft_type": "PREFIX_TUNING"}, "peft-type-not-mergeable"),
        ({"peft_type": "ADALORA", "rank_pattern": {"x.lora_E": [True, 1]}}, "config-value"),
        ({"peft_type": "ADALORA", "rank_pattern": {"x.lora_E": 2}}, "config-value"),
        ({"peft_type": "ADALORA", "rank_pattern": [[True]]}, "config-value"),
        ({"peft_type": "XLORA"}, "peft-type-not-mergeable"),
        ({"peft_type": "lora"}, "peft-type-unknown"),
        ({"peft_type": "NEW_IN_2027"}, "peft-type-unknown"),
        ({"use_rslora": "false"}, "config-value"),
        ({"use_dora": 1}, "config-value"),
        ({"lora_alpha": "16"}, "config-value"),
        ({"lora_alpha": None}, "config-value"),
        ({"lora_alpha": True}, "config-value"),
        ({"lora_alpha": float("nan")}, "config-value"),
        ({"lora_alpha": ...}, "config-value"),
        ({"r": "8"}, "config-value"),
        ({"r": 4.5}, "config-value"),
        ({"rank_pattern": {"q_proj": "4"}}, "config-value"),
        ({"alpha_pattern": ["q_proj"]}, "config-value"),
        ({"bias": "some"}, "config-value"),
        ({"init_lora_weights": "pissa_niter_4"}, "feature-unsupported"),
        ({"init_lora_weights": "loftq"}, "feature-unsupported"),
        ({"init_lora_weights": "corda"}, "feature-unsupported"),
        ({"init_lora_weights": "lora_ga"}, "feature-unsupported"),
        ({"use_qalora": True}, "feature-unsupported"),
        ({"arrow_config": {"top_k": 2}}, "feature-unsupported"),
    ],
)
def test_what_the_policy_refuses(changes: dict[str, Any], code: str) -> None:
    config = {k: v for k, v in {**PLAIN, **changes}.items() if v is not ...}
    with pytest.raises(RefusedError) as refusal:
        policy.check(config)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora_alpha": 0.5, "use_rslora": True, "use_dora": True},
        {"rank_pattern": None, "alpha_pattern": {"q_proj": 4}},
        {"init_lora_weights": "gaussian"},
        {"use_qalora": False, "alora_invocation_tokens": None, "qalora_group_size": 16},
        {"bias": "lora_only"},
        {"trainable_token_indices": [1]},
        {"init_lora_weights": "pissa"},
        {"peft_type": "LOHA", "alpha": 8},
    ],
)
def test_what_it_lets_pass(changes: dict[str, Any]) -> None:
    policy.check({**PLAIN, **changes})


def test_a_rank_of_gralora_that_is_null_is_refused() -> None:
    """PEFT divides it."""
    config = {"peft_type": "GRALORA", "r": None, "alpha": 64, "target_modules": ["q_proj"]}
    with pytest.raises(RefusedError, match="r = None"):
        patches.apply(config, None)
