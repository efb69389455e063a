"""LoRA on stacked experts as PEFT stored it before 0.19.1.

Checked once by hand against adapters that PEFT 0.18.1, 0.19.0 and 0.19.1 themselves saved, and their live logits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bot.errors import RefusedError
from tests.merge.oracle import compare
from tests.tiny.adapters import edit_config, rewrite_weights

EXPERTS = 4
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
SQUARE = {  # qwen3_moe's gate_up_proj is 32 by 32 when it is tiny
    "r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "target_parameters": BOTH[:1],
}  # fmt: skip


def aged(tensors: dict[str, Tensor], *, only: str = "") -> dict[str, Tensor]:
    """Expert by expert and rank by rank: A holds what B held, and the other way round."""
    found = dict(tensors)
    for name in (n for n in tensors if ".experts." in n and n.endswith("lora_A.weight") and only in n):
        a, b = tensors[name], tensors[name.replace("lora_A", "lora_B")]
        rank = a.shape[0] // EXPERTS
        old_a, old_b = torch.empty(a.shape[0], b.shape[0]), torch.empty(a.shape[1], b.shape[1])
        for expert in range(EXPERTS):
            for k in range(rank):
                old_a[expert * rank + k] = b[:, k * EXPERTS + expert]
                old_b[:, k * EXPERTS + expert] = a[expert * rank + k]
        found[name], found[name.replace("lora_A", "lora_B")] = old_a, old_b
    return found


def pair(
    adapter_on: Callable, architecture: str, version: Any, config: dict | None = None
) -> tuple[Any, ...]:
    """A base, an adapter of today, and the same one as an older PEFT stored it."""
    config = config or SQUARE | {"target_parameters": BOTH}
    base, today = adapter_on(architecture, config, name="today")
    _, old = adapter_on(architecture, config, name="old")
    rewrite_weights(old, aged)
    edit_config(old, peft_version=version)
    return base, today, old


@pytest.mark.parametrize(
    ("architecture", "version"),
    [
        ("qwen3_moe", "0.18.1"),  # its square parameter follows the other one
        pytest.param("mixtral", ..., marks=pytest.mark.slow),
        pytest.param("mixtral", "0.19.0", marks=pytest.mark.slow),
        pytest.param("mixtral", "0.21.2", marks=pytest.mark.slow),  # shapes are believed before the version
        pytest.param("gpt_oss", "0.19.0", marks=pytest.mark.slow),
    ],
)
def test_old_layouts_answer_as_today(
    architecture: str, version: Any, adapter_on: Callable, merged: Callable
) -> None:
    base, today, old = pair(adapter_on, architecture, version)
    out, plan = merged(old, validation="full")
    difference = compare(architecture, base=base, adapter=today, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05
    assert len(plan.experts) == 4
    assert any("0.19.1" in note for note in plan.notes)


@pytest.mark.parametrize("version", ["0.18.1", "0.17.1", "0.19.0"])
def test_a_square_parameter_goes_by_the_version(version: str, adapter_on: Callable, merged: Callable) -> None:
    base, today, old = pair(adapter_on, "qwen3_moe", version, SQUARE)
    out, plan = merged(old)
    assert compare("qwen3_moe", base=base, adapter=today, out=out, plan=plan).error < 2e-5
    assert len(plan.experts) == 2


@pytest.mark.parametrize("version", ["0.19.1", "0.21.2", "0.22.0.dev0"])
def test_today_nothing_is_rearranged(version: str, adapter_on: Callable, merged: Callable) -> None:
    base, today, _ = pair(adapter_on, "qwen3_moe", version, SQUARE)
    edit_config(today, peft_version=version)
    out, plan = merged(today)
    assert compare("qwen3_moe", base=base, adapter=today, out=out, plan=plan).error < 2e-5
    assert not plan.experts


@pytest.mark.parametrize("version", [..., None, "0.18.2.dev0@abc", "0.19.1.dev0", "nightly"])
def test_what_nothing_tells_is_refused(version: Any, adapter_on: Callable, plan_of: Callable) -> None:
    _, _, old = pair(adapter_on, "qwen3_moe", version, SQUARE)
    with pytest.raises(RefusedError) as refusal:
        plan_of(old)
    assert refusal.value.code == "expert-layout-unknown"
    assert "peft_version" in refusal.value.advice


def test_two_layouts_in_one_file_are_refused(adapter_on: Callable, plan_of: Callable, tmp_path: Path) -> None:
    _, today, _ = pair(adapter_on, "mixtral", "0.18.1")
    rewrite_weights(today, lambda tensors: aged(tensors, only="layers.0"))
    with pytest.raises(RefusedError) as refusal:
        plan_of(today)
    assert refusal.value.code == "expert-layout-unknown"


def test_shapes_of_neither_layout_are_named(adapter_on: Callable, plan_of: Callable) -> None:
    _, today, _ = pair(adapter_on, "mixtral", "0.18.1")
    rewrite_weights(
        today, lambda tensors: {k: v[:, :-1] if "experts.lora_A" in k else v for k, v in tensors.items()}
    )
    with pytest.raises(RefusedError) as refusal:
        plan_of(today)
    assert refusal.value.code == "shape-mismatch"
