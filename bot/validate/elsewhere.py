"""Merges that another tool made: whether one is ours, and its tensors under the base's names.

Tools store a model under other names than the base's repository does (GPT-2's is there without `transformer.`). What
transformers loads into the same parameter is the same tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bot.records import Plan
from bot.validate.expected import expected_tensors
from bot.weights.files import LocalFiles
from bot.weights.layout import Layout, read_layout

WRAPPER = "base_model.model."  # what PEFT puts before a model's own names


def is_ours(merged: Path, *, plan: Plan) -> bool:
    """Whether this bot has made the folder by this very plan: then its arithmetic is held to its own bound."""
    try:
        return bool(json.loads((merged / "merge_plan.json").read_text("utf-8"))["key"] == plan.key)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def merged_layout(merged: Path, *, plan: Plan, base: Layout, base_folder: Path | None) -> Layout:
    """The merged folder's layout, with the names that its tensors have in the plan.

    Raises what `read_layout` raises.
    """
    layout = read_layout(LocalFiles(merged))
    return under(other_names(layout, plan=plan, base=base, base_folder=base_folder), layout)


def under(renamed: dict[str, str], layout: Layout) -> Layout:
    """The layout with these tensors under new names."""
    if not renamed:
        return layout
    shards = []
    for shard in layout.shards:
        tensors = tuple(replace(t, name=renamed.get(t.name, t.name)) for t in shard.header.tensors)
        shards.append(replace(shard, header=replace(shard.header, tensors=tensors)))
    return replace(layout, shards=tuple(shards))


def other_names(layout: Layout, *, plan: Plan, base: Layout, base_folder: Path | None) -> dict[str, str]:
    """Names in the merged folder → those in the plan, where they differ and transformers loads both as one."""
    wanted, there = set(expected_tensors(plan, base=base)), set(layout.tensors)
    lost, extra = wanted - there, there - wanted
    if not lost or not extra or base_folder is None:
        return {}
    parameters = _parameters(base_folder, plan.model_class, lost | extra)
    places = _single((parameters.get(name, name), name) for name in lost)
    found = _single((parameters.get(name, name), name) for name in extra)
    return {found[parameter]: places[parameter] for parameter in found.keys() & places.keys()}


def _parameters(folder: Path, model_class: str, names: set[str]) -> dict[str, str]:
    """Names on disk → parameters; nothing where the model cannot be built."""
    from bot.validate.models import meta_model, parameter_names  # noqa: PLC0415 - transformers

    try:
        return parameter_names(meta_model(folder, model_class), names)
    except Exception:  # noqa: BLE001  # whatever transformers raises: the names stay as they are
        return {}


def _single(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Parameter → name; parameters that several names make (experts one by one) are left out."""
    found: dict[str, list[str]] = {}
    for parameter, name in pairs:
        found.setdefault(parameter, []).append(name)
    return {parameter: names[0] for parameter, names in found.items() if len(names) == 1}
