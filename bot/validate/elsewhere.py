"""Merges that another tool made: whether one is ours, and its tensors under the base's names.

Tools store a model under other names than the base's repository does (GPT-2's is there without `transformer.`). What
transformers loads into the same parameter is the same tensor.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

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
    pairs = _made_of(layout, plan=plan, base=base, base_folder=base_folder)
    return {extra[0]: lost[0] for lost, extra in pairs if len(lost) == len(extra) == 1}


def other_forms(
    layout: Layout, *, plan: Plan, base: Layout, base_folder: Path | None
) -> dict[str, list[str]]:
    """Names in the merged folder → several in the plan that transformers makes the same parameter of: experts, stacked.

    Their numbers are the same in another order, which only transformers knows.
    """
    pairs = _made_of(layout, plan=plan, base=base, base_folder=base_folder)
    return {extra[0]: lost for lost, extra in pairs if len(lost) > len(extra) == 1}


def _made_of(
    layout: Layout, *, plan: Plan, base: Layout, base_folder: Path | None
) -> list[tuple[list[str], list[str]]]:
    """For each parameter that the merged folder has under other names: those in the plan, those in the folder."""
    wanted, there = set(expected_tensors(plan, base=base)), set(layout.tensors)
    lost, extra = wanted - there, there - wanted
    if not lost or not extra or base_folder is None:
        return []
    parameters = _parameters(base_folder, plan.model_class, lost | extra)
    found: dict[str, tuple[list[str], list[str]]] = {}
    for name in sorted(lost | extra):
        found.setdefault(parameters.get(name, name), ([], []))[name in extra].append(name)
    return [(planned, other) for planned, other in found.values() if planned and other]


def _parameters(folder: Path, model_class: str, names: set[str]) -> dict[str, str]:
    """Names on disk → parameters; nothing where the model cannot be built."""
    from bot.validate.models import meta_model, parameter_names  # noqa: PLC0415 - transformers

    try:
        return parameter_names(meta_model(folder, model_class), names)
    except Exception:  # noqa: BLE001  # whatever transformers raises: the names stay as they are
        return {}
