"""Weights beside an adapter that PEFT knows nothing of: a merge without them is not what was trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.doctor import doctor
from bot.errors import RefusedError
from bot.plan.companions import EMPTY, TRAINED
from bot.progress import Silent
from bot.settings import Settings
from tests.tiny.adapters import LORA_VARIANTS


@pytest.mark.parametrize("name", TRAINED)
def test_a_part_that_was_trained_whole_is_not_left_out(
    name: str, adapter_on: Callable, plan_of: Callable
) -> None:
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    (adapter / name).write_bytes(b"0" * EMPTY)  # a pickle of nothing
    plan_of(adapter)
    (adapter / name).write_bytes(b"0" * (EMPTY + 1))
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter)
    assert refusal.value.code == "weights-beside"
    assert name in refusal.value.sentence
    assert doctor(str(adapter), settings=Settings(isolation="none"), progress=Silent()).verdict == "refused"


def test_a_value_head_is_told(adapter_on: Callable, plan_of: Callable) -> None:
    """PPO writes one beside a policy that is whole without it."""
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    (adapter / "value_head.safetensors").write_bytes(b"0" * 9999)
    assert any(note.startswith("value_head.safetensors is not merged") for note in plan_of(adapter).notes)
