"""What older releases of PEFT computed otherwise: merged only where the config tells which release it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.errors import RefusedError
from bot.plan.known_keys import schema
from bot.plan.rules.history import written_since
from tests.tiny.adapters import edit_config

Q0, Q1 = (f"model.layers.{n}.self_attn.q_proj" for n in (0, 1))
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
LOKR = {"peft_type": "LOKR", "r": 4, "alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


def age(adapter: Path, *, minor: int, peft_type: str = "LORA") -> None:
    """Takes out of the config what PEFT 0.`minor` did not write."""
    edit_config(adapter, **{key: ... for key, known in schema(peft_type).items() if known.since > minor})


def test_a_release_is_told_by_what_it_writes() -> None:
    assert written_since({"peft_type": "LORA", "peft_version": "0.15.2"}, 15)
    assert not written_since({"peft_type": "LORA", "peft_version": "0.14.0", "corda_config": None}, 15)
    assert written_since({"peft_type": "LORA", "corda_config": None}, 15)
    assert written_since({"peft_type": "LORA", "peft_version": "1.0"}, 15)
    assert not written_since({"peft_type": "LORA", "use_dora": False, "peft_version": None}, 14)


@pytest.mark.parametrize(
    ("minor", "ranks", "alphas", "clear"),
    [
        (13, {}, {"q_proj": 3}, True),
        (13, {"q_proj": 2}, {"q_proj": 3}, True),
        (13, {"q_proj": 2}, {"v_proj": 3}, True),
        (13, {"q_proj": 4}, {Q0: 3, Q1: 3}, False),  # one key for both: the first of either
        (14, {"q_proj": 4}, {Q0: 3, Q1: 3}, True),
        (14, {}, {"^model.layers.0.self_attn.q_proj": 3}, False),  # a dot was wanted before the key
        (14, {}, {"v_proj|q_proj": 3}, False),  # and the key was in no brackets
        (14, {}, {r"layers\.0\..*_proj": 3}, True),
        (15, {"q_proj": 4}, {"^model.layers.0.self_attn.q_proj": 3, "v_proj|q_proj": 5}, True),
    ],
)
def test_a_pattern_that_was_read_otherwise_is_refused(
    minor: int, ranks: Any, alphas: Any, clear: bool, adapter_on: Callable, plan_of: Callable
) -> None:
    """No tensor shows an alpha: the delta would be scaled wrongly, and every check against PEFT today would pass."""
    _, adapter = adapter_on("llama", LORA | {"rank_pattern": ranks, "alpha_pattern": alphas})
    today = plan_of(adapter).bindings
    age(adapter, minor=minor)
    if clear:
        assert plan_of(adapter).bindings == today
        return
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter)
    assert refusal.value.code == "pattern-unclear"
    edit_config(adapter, peft_version="0.15.0")
    assert plan_of(adapter).bindings == today


def test_lokr_had_a_scale_of_one(adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("llama", LOKR)
    plan_of(adapter)
    age(adapter, minor=13, peft_type="LOKR")
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter)
    assert refusal.value.code == "peft-too-old"
    edit_config(adapter, alpha=4)
    plan_of(adapter)


@pytest.mark.parametrize(
    "way", [{"target_modules": ["q_proj", "embed_tokens"]}, {"trainable_token_indices": [3, 5]}]
)
def test_an_embedding_that_scales_was_added_to_without_the_scale(
    way: dict[str, Any], adapter_on: Callable, plan_of: Callable
) -> None:
    """Gemma 3 scales inside of its embedding; Gemma 2 did behind it, so there the delta was scaled, too."""
    for architecture, refused in (("gemma3", True), ("gemma2", False)):
        _, adapter = adapter_on(architecture, LORA | way, name=architecture)
        plan_of(adapter)
        edit_config(adapter, peft_version=...)
        if not refused:
            plan_of(adapter)
            continue
        with pytest.raises(RefusedError) as refusal:
            plan_of(adapter)
        assert refusal.value.code == "peft-too-old"
