"""Whatever is done to a config: a config that PEFT loads, with the same arithmetic, or a refusal. Never a traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftConfig

from bot.diagnosis import Diagnosis
from bot.errors import MergeBotError
from bot.plan import adapter_config
from bot.plan.examination import diagnose, unreadable
from bot.plan.peft_types import REFUSED
from bot.plan.rules.evidence import Evidence
from bot.plan.rules.values import TRAINING
from tests.plan.rules import corpus

CONFIGS = corpus.configs()
NAMES = sorted(CONFIGS)
MERGEABLE = [n for n in NAMES if diagnose(CONFIGS[n], name=n).verdict == "fine"]
REAL = corpus.real()


def loaded(config: dict[str, Any]) -> dict[str, Any]:
    """What PEFT makes of a config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asdict(PeftConfig.from_peft_type(**config))


def arithmetic(config: dict[str, Any]) -> dict[str, Any]:
    """What PEFT makes of the keys that a merge depends on; nulls and empty values are one."""
    found = {
        k: v
        for k, v in loaded(config).items()
        if not TRAINING.fullmatch(k) and k not in ("peft_version", "revision")
    }
    inert = ("loftq_config", "megatron_config", "megatron_core", "runtime_config")
    return {k: v or None for k, v in found.items() if k not in inert}


def outcome(config: dict[str, Any], found: Diagnosis) -> dict[str, Any] | None:
    """The config that comes of it, None for a refusal."""
    if found.verdict == "refused":
        assert all(f.reason and f.advice for f in found.refusals)
        return None
    return config if found.repaired is None else found.repaired


def verdict(data: bytes, *, name: str) -> Diagnosis:
    """The diagnosis of a file's bytes."""
    try:
        config, odd = adapter_config.parse(data, files=SimpleNamespace(name=name))
    except MergeBotError as error:
        return unreadable(error, name=name)
    return diagnose(config, name=name, odd=odd)


# Intact


@pytest.mark.parametrize("name", sorted(corpus.written()))
def test_what_peft_writes_stays_byte_for_byte(name: str) -> None:
    data = corpus.written()[name]
    config, odd = adapter_config.parse(data, files=SimpleNamespace(name=name))
    found = diagnose(config, name=name, odd=odd)
    assert odd == ()
    assert found.repaired is None
    assert not any(f.kind == "repair" for f in found.findings)
    if config["peft_type"] in REFUSED:
        assert found.verdict == "refused"


def test_most_of_peft_is_fine() -> None:
    """The refused ones are known: what has no merge, and what cannot be done again."""
    wrong = {n for n in corpus.written() if diagnose(CONFIGS[n], name=n).verdict == "refused"}
    types = {n for n in wrong if CONFIGS[n]["peft_type"] in REFUSED}
    assert wrong - types <= {"alora", "layer_replication"} | {
        n for n in wrong if "niter" in n or n in ("corda", "loftq")
    }


# Changed in spelling: the same arithmetic


def spelled(value: Any) -> st.SearchStrategy[Any]:
    """Other ways to write a value that mean the same."""
    if isinstance(value, bool):
        return st.sampled_from(["true", "True", 1] if value else [0])
    if isinstance(value, int):
        return st.sampled_from([str(value), float(value), f" {value}"])
    if isinstance(value, float):
        return st.just(repr(value))
    if (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(v, str) and re.fullmatch(r"[\w.]+", v) for v in value)
    ):
        return st.sampled_from([",".join(value), ", ".join(value), repr(value)])
    if isinstance(value, dict) and value and all(type(v) is int for v in value.values()):
        return st.just({k: str(v) for k, v in value.items()})
    return st.just(value)


@st.composite
def respelled(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    config = CONFIGS[draw(st.sampled_from(MERGEABLE))]
    keys = draw(st.sets(st.sampled_from(sorted(config)), max_size=4))
    changed = {k: draw(spelled(v)) if k in keys else v for k, v in config.items()}
    if draw(st.booleans()):
        changed["peft_type"] = draw(
            st.sampled_from([config["peft_type"].lower(), f"PeftType.{config['peft_type']}"])
        )
    if draw(st.booleans()) and config.get("task_type"):
        changed["task_type"] = draw(
            st.sampled_from([config["task_type"].lower(), f"TaskType.{config['task_type']}"])
        )
    return config, changed


@given(respelled())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_another_spelling_is_the_same_adapter(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    config, changed = pair
    came = outcome(changed, diagnose(changed, name="x"))
    if came is not None:
        assert arithmetic(came) == arithmetic(config)


# Changed anyhow


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["true", "false", "16", "q_proj,v_proj", "gaussian", "(", "10" * 5000, 10**400, -1, 0, "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
#: What a rule may change because of another key.
TOGETHER = {"layers_pattern", "layers_to_transform", "total_step", "tinit", "tfinal", "peft_type", "bias"}


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[dict[str, Any], set[str]]:
    config = dict(CONFIGS[draw(st.sampled_from(NAMES))])
    touched = set()
    for _ in range(draw(st.integers(1, 3))):
        key = draw(
            st.sampled_from(sorted(config) or ["r"])
            | st.sampled_from(["use_rslora", "r", "x", "mini_r", "variant"])
        )
        touched.add(key)
        if draw(st.booleans()):
            config.pop(key, None)
        else:
            config[key] = draw(JUNK)
    return config, touched


SHAPES = st.dictionaries(
    st.sampled_from(
        [f"model.layers.{i}.self_attn.{m}_proj.lora_{f}.weight" for i in (0, 1) for m in "qv" for f in "AB"]
        + ["model.layers.0.self_attn.q_proj.lora_magnitude_vector", "lm_head.weight", "x"]
    ),
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
    max_size=6,
)


@given(spoiled(), st.none() | SHAPES)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_anything_ends_with_a_config_that_peft_loads_or_a_refusal(
    case: tuple[dict[str, Any], set[str]], shapes: dict[str, tuple[int, ...]] | None
) -> None:
    config, touched = case
    weights = None if shapes is None else Evidence(shapes)
    found = diagnose(config, name="x", weights=weights)
    came = outcome(config, found)
    if came is None:
        return
    loaded(json.loads(json.dumps(came)))
    for key in came.keys() & config.keys() - touched - TOGETHER:
        if key not in {f.key for f in found.findings}:
            assert came[key] == config[key]
    again = diagnose(came, name="x", weights=weights)
    assert again.verdict == "fine", again.findings


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | JUNK.map(lambda v: repr(v).encode()))
@settings(max_examples=300)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    found = verdict(data, name="x")
    assert (found.verdict == "refused") == bool(found.refusals)


# The real ones


@pytest.mark.skipif(not REAL, reason="the real files are not here")
@pytest.mark.parametrize("name", sorted(REAL))
def test_a_real_file_has_a_verdict_and_soon(name: str) -> None:
    start = time.thread_time()
    found = verdict(REAL[name], name=name)
    assert time.thread_time() - start < 0.05
    if found.verdict == "refused":
        assert outcome({}, found) is None
    else:
        assert loaded(found.repaired or json.loads(REAL[name]))
    assert found.verdict == "refused" or not name.startswith("not-peft")


def test_a_verdict_needs_no_torch() -> None:
    code = "import sys, bot.plan.examination, bot.doctor, bot.terminal.diagnosis; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=corpus.HERE)
