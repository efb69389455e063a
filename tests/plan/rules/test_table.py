"""Every rule of the table: what it sees in a minimal or a real config, and what comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from bot.plan.adapter_keys import PREFIX
from bot.plan.rules import words
from bot.plan.rules.evidence import Evidence
from bot.plan.rules.inner import INNER
from bot.plan.rules.table import RULES, examine
from tests.plan.schema import kinds

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["q_proj"]}
Q = "model.layers.0.self_attn.q_proj"
V = "model.layers.1.self_attn.v_proj"


def seen(rank: int = 4, modules: tuple[str, ...] = (Q, V), **more: tuple[int, ...]) -> Evidence:
    """The header of a LoRA file."""
    shapes = {f"{PREFIX}{m}.lora_A.weight": (rank, 32) for m in modules}
    shapes |= {f"{PREFIX}{m}.lora_B.weight": (32, rank) for m in modules}
    return Evidence.of({**shapes, **{f"{PREFIX}{k.replace('__', '.')}": v for k, v in more.items()}}.items())


def of_ranks(**ranks: int) -> Evidence:
    names = {"q": Q, "v": V}
    pairs = [(f"{PREFIX}{names[m]}.lora_A.weight", (r, 32)) for m, r in ranks.items()]
    return Evidence.of(pairs + [(f"{PREFIX}{names[m]}.lora_B.weight", (32, r)) for m, r in ranks.items()])


def with_magnitudes(*modules: str) -> Evidence:
    shapes = dict(seen().shapes)
    shapes |= {f"{m}.lora_magnitude_vector": (32,) for m in modules}
    return Evidence(shapes)


MANY = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(300)]
ADALORA = {"peft_type": "ADALORA", "lora_alpha": 8, "init_r": 12, "target_modules": ["lin0"]}
NAN = float("nan")
# rule, the keys that differ from PLAIN (... for a key that is not there), what they become, the tensors
REPAIRED: list[tuple[str, dict[str, Any], dict[str, Any], Evidence | None]] = [
    ("peft-type", {"peft_type": "lora"}, {"peft_type": "LORA"}, None),
    ("peft-type", {"peft_type": "PeftType.LORA"}, {"peft_type": "LORA"}, None),
    ("peft-type", {"peft_type": None}, {"peft_type": "LORA"}, seen()),
    ("peft-type", {"peft_type": ...}, {"peft_type": "LORA"}, None),
    ("bone", {"peft_type": "BONE", "lora_alpha": ...}, {"peft_type": "MISS"}, None),
    ("bone", {"peft_type": "bone", "lora_alpha": ..., "bias": "bone_only"},
     {"peft_type": "MISS", "bias": "miss_only"}, None),
    ("task-type", {"task_type": "TaskType.CAUSAL_LM"}, {"task_type": "CAUSAL_LM"}, None),
    ("task-type", {"task_type": "seq_cls"}, {"task_type": "SEQ_CLS"}, None),
    ("task-type", {"task_type": "CASUAL_LM"}, {"task_type": "CAUSAL_LM"}, None),
    ("task-type", {"task_type": "CHAT"}, {"task_type": ...}, None),
    ("bias", {"bias": None}, {"bias": "none"}, None),
    ("bias", {"bias": "None"}, {"bias": "none"}, None),
    ("init", {"init_lora_weights": "true"}, {"init_lora_weights": True}, None),
    ("init", {"init_lora_weights": "False"}, {"init_lora_weights": False}, None),
    ("base-words", {"base_model_name_or_path": ["a/b"]}, {"base_model_name_or_path": ...}, None),
    ("revision", {"revision": "unsloth"}, {"revision": ...}, None),
    ("loftq", {"loftq_config": {"loftq_bits": 4}}, {"loftq_config": ...}, None),
    ("megatron", {"megatron_config": {"tp": 2}}, {"megatron_config": ...}, None),
    ("runtime", {"runtime_config": {"ephemeral_gpu_offload": True}}, {"runtime_config": ...}, None),
    ("training-only", {"lora_plus_lr_ratio": 16}, {"lora_plus_lr_ratio": ...}, None),
    (
        "renamed",
        {"peft_type": "GRALORA", "lora_alpha": ..., "gralora_alpha": 64},
        {"alpha": 64, "gralora_alpha": ...},
        None,
    ),
    (
        "renamed",
        {"peft_type": "SUPERTUNING", "lora_alpha": 8, "selection_direction": "bottom"},
        {"select_top": False, "selection_direction": ...},
        None,
    ),
    ("unknown-empty", {"merge_weights": False}, {"merge_weights": ...}, None),
    ("schedule", {**ADALORA, "total_step": None}, {"total_step": 1}, None),
    ("schedule", {**ADALORA, "total_step": 10, "tinit": 20, "tfinal": 250}, {"total_step": 271}, None),
    ("training-value", {"lora_dropout": None}, {"lora_dropout": ...}, None),
    ("training-value", {"lora_dropout": NAN}, {"lora_dropout": ...}, None),
    ("training-value", {"lora_dropout": "0.05"}, {"lora_dropout": 0.05}, None),
    ("training-value", {"lora_dropout": 5}, {"lora_dropout": ...}, None),
    ("training-value", {"inference_mode": "false"}, {"inference_mode": False}, None),
    ("boolean", {"use_rslora": "true"}, {"use_rslora": True}, None),
    ("boolean", {"use_rslora": 0}, {"use_rslora": False}, None),
    ("boolean", {"fan_in_fan_out": "False"}, {"fan_in_fan_out": False}, None),
    ("boolean", {"use_dora": "false"}, {"use_dora": False}, seen()),
    ("number", {"r": "4"}, {"r": 4}, None),
    ("number", {"r": 4.0}, {"r": 4}, None),
    ("number", {"lora_alpha": " 16 "}, {"lora_alpha": 16}, None),
    ("number", {"lora_alpha": "0.5"}, {"lora_alpha": 0.5}, None),
    ("pattern", {"rank_pattern": None}, {"rank_pattern": {}}, None),
    ("pattern", {"alpha_pattern": {"q_proj": "8"}}, {"alpha_pattern": {"q_proj": 8}}, None),
    ("pattern", {"rank_pattern": {"q_proj": 8.0}}, {"rank_pattern": {"q_proj": 8}}, None),
    ("names-in-a-string", {"target_modules": "q_proj,v_proj"}, {"target_modules": ["q_proj", "v_proj"]}, None),
    ("names-in-a-string", {"target_modules": "['q_proj', 'v_proj']"}, {"target_modules": ["q_proj", "v_proj"]}, None),
    ("names-in-a-string", {"target_modules": ",".join(MANY)}, {"target_modules": MANY}, None),
    ("names-in-a-string", {"target_modules": "q_proj"}, {"target_modules": ["q_proj"]}, None),
    ("names-in-a-string", {"modules_to_save": "lm_head"}, {"modules_to_save": ["lm_head"]}, None),
    ("target-prefix", {"target_modules": [PREFIX + Q]}, {"target_modules": [Q]}, None),
    ("targets-from-tensors", {"target_modules": []}, {"target_modules": [Q, V]}, seen()),
    ("targets-from-tensors", {"target_modules": "*.q_proj"}, {"target_modules": [Q, V]}, seen()),
    ("layers", {"layers_pattern": "layers"}, {"layers_pattern": ...}, None),
    (
        "layers",
        {"target_modules": ".*_proj", "layers_to_transform": [0, 1]},
        {"target_modules": [Q, V], "layers_to_transform": ...},
        seen(),
    ),
    ("saved-empty", {"modules_to_save": {}}, {"modules_to_save": ...}, None),
    ("rank", {"r": ...}, {"r": 16}, seen(16)),
    ("rank", {"r": 8}, {"r": 16}, seen(16)),
    ("rank", {"r": 7.5}, {"r": 16}, seen(16)),
    ("rank", {"r": 8, "rank_pattern": {"q_proj": 2}}, {"r": 4}, of_ranks(q=2, v=4)),
    ("dora", {"use_dora": False}, {"use_dora": True}, with_magnitudes(Q, V)),
    ("dora", {"use_dora": "false"}, {"use_dora": True}, with_magnitudes(Q, V)),
    ("lora-bias", {}, {"lora_bias": True}, seen(**{f"{Q}.lora_B.bias".replace(".", "__"): (32,)})),
]  # fmt: skip


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in {**config, **changes}.items() if v is not ...}


@pytest.mark.parametrize(("rule", "wrong", "right", "weights"), REPAIRED)
def test_what_is_repaired(
    rule: str, wrong: dict[str, Any], right: dict[str, Any], weights: Evidence | None
) -> None:
    config = changed(PLAIN, wrong)
    found = examine(config, weights)
    assert found.stops == ()
    assert found.config == changed(config, right)
    assert rule in {patch.rule for patch in found.patches}
    again = examine(found.config, weights)
    assert (again.config, again.patches, again.stops) == (found.config, (), ())


# rule, the keys that differ from PLAIN, the key that is named, a word of the sentence, the tensors
STOPPED: list[tuple[str, dict[str, Any], str, str, Evidence | None]] = [
    ("bone", {"peft_type": "BONE", "init_weights": "mini"}, "init_weights", "0.18", None),
    ("unknown-empty", {"use_magic": True}, "use_magic", "does not know", None),
    ("unknown-empty", {"use_magic": True, "peft_version": "0.23.1"}, "use_magic", "PEFT 0.23", None),
    ("unknown-empty", {"merge_weights": True}, "merge_weights", "PEFT 0.2 is the last", None),
    ("unknown-empty", {"enable_lora": [True, False, True]}, "enable_lora", "MergedLinear", None),
    ("unknown-empty", {"r_sum": 8}, "r_sum", "O-LoRA", None),
    ("unknown-empty", {"alora_invocation_string": "go"}, "alora_invocation_string", "aLoRA", None),
    ("unknown-empty", {"token_dim": 8}, "token_dim", "not of LORA", None),
    ("renamed", {"peft_type": "GRALORA", "lora_alpha": ..., "alpha": 1, "gralora_alpha": 2},
     "gralora_alpha", "alpha", None),
    ("boolean", {"use_rslora": "false"}, "use_rslora", "a string", None),
    ("boolean", {"use_dora": "false"}, "use_dora", "a string", None),
    ("boolean", {"use_rslora": "maybe"}, "use_rslora", "true or false", None),
    ("type", {"r": "eight"}, "r", "whole number", None),
    ("type", {"target_modules": ["q_proj", 1]}, "target_modules", "list of strings", None),
    ("type", {"layers_to_transform": "all"}, "layers_to_transform", "whole number", None),
    ("finite", {"r": 10**5000}, "r", "no number", None),
    ("finite", {"alpha_pattern": {"q_proj": NAN}}, "alpha_pattern", "no number", None),
    ("targets-from-tensors", {"target_modules": []}, "target_modules", "is empty", None),
    ("layers", {"target_modules": ".*", "layers_to_transform": 1}, "layers_to_transform", "regular expression", None),
    ("no-expression", {"exclude_modules": "("}, "exclude_modules", "unterminated", None),
    ("no-expression", {"exclude_modules": "x{99999999999}"}, "exclude_modules", "too large", None),
    ("no-expression", {"modules_to_save": ["score", "["]}, "modules_to_save", "unterminated", None),
    ("no-expression", {"rank_pattern": {"(": 4}}, "rank_pattern", "unterminated", seen()),
    ("no-expression", {"alpha_pattern": {"(?i)Q_PROJ": 4}}, "alpha_pattern", "flags", seen()),
    ("no-expression", {"layers_to_transform": [0], "layers_pattern": ["layers", "("]}, "layers_pattern",
     "unterminated", None),
    ("rank", {"r": None}, "r", "null", None),
    ("rank", {"r": 4}, "r", "rank 4", of_ranks(q=2, v=4)),
    ("rank", {"r": 8}, "r", "2, 4", of_ranks(q=2, v=4)),
    ("rank", {"r": 4, "rank_pattern": {"q_proj": 8}}, "rank_pattern", "rank 8", of_ranks(q=2, v=4)),
    ("alpha", {"lora_alpha": None}, "lora_alpha", "null", seen()),
    ("alpha", {"lora_alpha": ...}, "lora_alpha", "missing", seen()),
    ("dora", {"use_dora": True}, "use_dora", "no magnitude", seen()),
    ("dora", {}, "use_dora", "incomplete", with_magnitudes(Q)),
    ("oft", {"peft_type": "OFT", "r": 8, "lora_alpha": ...}, "oft_block_size", "0.14", None),
    (
        "oft",
        {"peft_type": "OFT", "r": 0, "oft_block_size": 4, "lora_alpha": ..., "use_cayley_neumann": True},
        "use_cayley_neumann",
        "0.18",
        None,
    ),
    ("limits", {"peft_type": "OFT", "oft_block_size": 4, "lora_alpha": ..., "peft_version": "0.19.0"},
     "r", "one", None),
    ("lokr-alpha", {"peft_type": "LOKR", "r": 4, "alpha": 8, "lora_alpha": ...}, "alpha", "passed over alpha", None),
    ("inner", {"kasa_config": {"beta": 0.1, "delta": 1}}, "kasa_config", "'delta'", None),
    ("inner", {"velora_config": {"num_groups": 0}}, "velora_config", "range", None),
    ("inner", {"eva_config": {"rho": "2"}}, "eva_config", "a number", None),
    ("limits", {"r": 0}, "r", "above zero", None),
    ("limits", {"peft_type": "ROAD", "variant": "road_3", "r": ..., "lora_alpha": ...}, "variant", "road_1", None),
    ("limits", {"peft_type": "GRALORA", "lora_alpha": ..., "r": 5}, "r", "multiple", None),
    ("limits", {"lora_bias": True, "use_dora": True}, "lora_bias", "refuses", None),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "wrong", "key", "word", "weights"), STOPPED)
def test_what_is_refused(
    rule: str, wrong: dict[str, Any], key: str, word: str, weights: Evidence | None
) -> None:
    found = examine(changed(PLAIN, wrong), weights)
    stop = next(stop for name, stop in found.stops if name == rule)
    assert stop.key == key
    assert word in stop.sentence
    assert stop.advice.endswith(".")


def test_every_rule_has_a_case_and_a_reference() -> None:
    ids = [rule.id for rule in RULES]
    assert len(ids) == len(set(ids))
    assert {rule for rule, *_ in REPAIRED} | {rule for rule, *_ in STOPPED} == set(ids)
    assert all(rule.what and rule.reason and rule.peft and rule.reference for rule in RULES)


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (PLAIN, None),
        (PLAIN, seen()),
        ({**PLAIN, "target_modules": "all-linear"}, seen()),
        ({**PLAIN, "exclude_modules": ["("], "rank_pattern": {r"(.*\.)?q_proj|x": 4}}, seen()),
        ({**PLAIN, "target_modules": r".*\.(q|v)_proj"}, seen()),
        (
            {**PLAIN, "target_modules": Q},
            seen(modules=(Q,)),
        ),  # as a regular expression it matches this module
        ({**PLAIN, "target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]}, None),
        ({**PLAIN, "use_rslora": None, "lora_alpha": 64.0, "lora_dropout": 0}, None),
        ({**PLAIN, "r": 8, "rank_pattern": {"q_proj": 2, "v_proj": 4}}, of_ranks(q=2, v=4)),
        (
            {**PLAIN, "r": 4, "rank_pattern": {"(q|x)_proj": 2}},
            of_ranks(q=2, v=4),
        ),  # for whoever may match it
        ({**PLAIN, "layers_to_transform": [0, 1], "layers_pattern": "layers"}, seen()),
        ({**PLAIN, "exclude_modules": "lm_head"}, None),
        ({**PLAIN, "use_dora": True}, with_magnitudes(Q, V)),
    ],
)
def test_what_is_let_alone(config: dict[str, Any], weights: Evidence | None) -> None:
    found = examine(config, weights)
    assert (found.config, found.patches, found.stops) == (config, (), ())


def test_the_keys_of_inner_configs_are_those_of_the_installed_peft() -> None:
    from dataclasses import fields

    from peft.tuners.lora import config as lora

    classes = {"use_bdlora": "BdLoraConfig", "lora_ga_config": "LoraGAConfig"}
    for name, told in INNER.items():
        kind = getattr(lora, classes.get(name, name.removesuffix("_config").capitalize() + "Config"))
        assert told == {f.name: kinds(f.type) for f in fields(kind)}, name


def test_the_words_that_peft_accepts_are_those_of_the_installed_one() -> None:
    from peft.tuners.waveft.constants import WAVELET_REDUCTIONS
    from transformers.activations import ACT2FN

    assert set(words.ACTIVATIONS) == set(ACT2FN.keys())
    assert set(words.WAVELETS) == set(WAVELET_REDUCTIONS)
