"""Which layout an adapter's experts are stored in: today's, or PEFT's before 0.19.1 (see `bot.weights.experts`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from packaging.version import InvalidVersion, Version
from peft import PeftModel
from peft.tuners.lora.layer import ParamWrapper

from bot.errors import RefusedError
from bot.merge.skeleton import PREFIX, expected_tensors, targets
from bot.weights.experts import partner
from bot.weights.header import TensorSpec

EXPERIMENT, TODAY = Version("0.19.0"), Version("0.19.1")


def old_experts(
    peft_model: PeftModel, *, tensors: Mapping[str, TensorSpec], version: Any
) -> tuple[dict[str, TensorSpec], dict[str, int]]:
    """The adapter's tensors with today's shapes, and what has to be rearranged: name of A → number of experts.

    Shapes tell, of any layer that is not square; else `version`, the config's peft_version. Raises RefusedError when
    layers contradict each other, or when neither tells.
    """
    shapes = expected_tensors(peft_model)
    layers = {
        f"{PREFIX}{t.path}.lora_A.weight": t.layer
        for t in targets(peft_model)
        if isinstance(t.layer, ParamWrapper) and t.layer._param_ndim == 3 and t.layer.num_experts > 1
    }
    layers = {first: layer for first, layer in layers.items() if {first, partner(first)} <= tensors.keys()}
    votes = {_vote(first, shapes=shapes, tensors=tensors) for first in layers}
    if "unknown" in votes or not votes - {"today"}:
        return dict(tensors), {}  # shapes that fit neither are refused by name later on
    if {"today", "old"} <= votes:
        raise _unclear("some of its experts are stored as PEFT does today and some as it did before 0.19.1")
    transposed = any(getattr(layer.get_base_layer(), "is_transposed", False) for layer in layers.values())
    if "old" not in votes and ("today" in votes or not _is_old(version, transposed=transposed)):
        return dict(tensors), {}
    found = dict(tensors)
    for first in layers:
        for name in (first, partner(first)):
            found[name] = replace(tensors[name], shape=shapes[name])
    return found, {first: int(layer.num_experts) for first, layer in layers.items()}


def _vote(first: str, *, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, TensorSpec]) -> str:
    pair = first, partner(first)
    found = [tensors[name].shape for name in pair]
    (rank, inputs), (outputs, _) = (shapes[name] for name in pair)
    today, old = [(rank, inputs), (outputs, rank)], [(rank, outputs), (inputs, rank)]
    if found == today:
        return "either" if today == old else "today"
    return "old" if found == old else "unknown"


def _is_old(version: Any, *, transposed: bool) -> bool:
    """Whether that PEFT stored experts the other way. `target_parameters` exist since 0.17, this key since 0.18."""
    try:
        found = Version(str(version).partition("@")[0])
    except InvalidVersion:
        found = None
    if found is None or (found.is_prerelease and found < TODAY):
        raise _unclear(f"peft_version is {version!r}, and the shapes fit both of PEFT's layouts")
    return found == EXPERIMENT or (found < EXPERIMENT and not transposed)


def _unclear(reason: str) -> RefusedError:
    return RefusedError(
        f"It is not known in which layout the adapter's experts are stored: {reason}.",
        advice="Put the version of PEFT that saved the adapter into adapter_config.json (peft_version).",
        code="expert-layout-unknown",
    )
