"""Every PEFT type that the installed PEFT registers is merged right, or refused with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from peft.utils.peft_types import PeftType

from bot.errors import RefusedError
from bot.plan.peft_types import MERGED, REFUSED
from tests.merge.oracle import compare, worst_ulp
from tests.tiny.adapters import SUITS, TUNERS
from tests.validate.asking import ask

TYPES = {name: name.partition(".")[0] for name in TUNERS}


def test_every_registered_type_is_decided() -> None:
    """A new PEFT release that adds a type fails here until we decide."""
    assert {t.value for t in PeftType} == MERGED | REFUSED.keys()
    assert not MERGED & REFUSED.keys()
    assert set(TYPES.values()) >= MERGED


@pytest.mark.parametrize("name", sorted(n for n, t in TYPES.items() if t in MERGED))
def test_merged_answers_as_the_live_adapter_does(name: str, adapter_on: Callable, merged: Callable) -> None:
    architecture = SUITS.get(TYPES[name], "llama")
    base, adapter = adapter_on(architecture, TUNERS[name])
    out, plan = merged(adapter)
    difference = compare(architecture, base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05
    told = ask(base, adapter, out, plan=plan)
    assert (told.verdict, "Not asked" in told.detail) == ("passed", False), told.detail


@pytest.mark.parametrize("name", sorted(n for n, t in TYPES.items() if t in REFUSED))
def test_what_no_weight_can_hold_is_refused_with_its_reason(
    name: str, adapter_on: Callable, merged: Callable
) -> None:
    _, adapter = adapter_on("llama", TUNERS[name])
    with pytest.raises(RefusedError) as refusal:
        merged(adapter)
    assert refusal.value.code == "peft-type-not-mergeable"
    assert REFUSED[TYPES[name]] in refusal.value.sentence


@pytest.mark.parametrize(
    "name",
    [
        "OFT",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in (
                "IA3",
                "TRAINABLE_TOKENS",
                "ADALORA",
                "ADALORA.pruned",
                "FROD",
                "HIRA",
                "OSF",
                "PSOFT",
                "VERA",
            )
        ),
    ],
)
def test_in_half_precision_every_check_passes(
    name: str, base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    """Tensor by tensor against float64, and the answers against the live adapter's."""
    base = base_of("llama", dtype="bfloat16", shards=2)
    _, adapter = adapter_on("llama", TUNERS[name], base=base)
    merged(adapter, validation="full")  # raises when a check fails


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if number % 3 else [])
        for number, name in enumerate(sorted(n for n, t in TYPES.items() if t in MERGED))
    ],
)
def test_in_half_precision_each_weight_is_the_live_adapters_rounded_once(
    name: str, base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    """Against the layers' own answers in float64: half a unit in the last place, and what float32 loses before it."""
    architecture = SUITS.get(TYPES[name], "llama")
    base = base_of(architecture, dtype="bfloat16")
    _, adapter = adapter_on(architecture, TUNERS[name], base=base)
    out, plan = merged(adapter)
    _, share, count = worst_ulp(base, adapter, out)
    assert share <= 1
    assert count >= len({b.parameter for b in plan.bindings})
