"""Tied weights: what an adapter on one of them means for the others.

In the live model a tuner layer or a saved module has a copy of its own, so a head that was tied to the embeddings no
longer follows them: the merged model must store both and say `tie_word_embeddings: false`. PEFT merges into the
shared storage instead and is silently wrong.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from bot.errors import RefusedError
from bot.merge.config import edited_config
from bot.merge.model import Names, build_virtual, load_config
from bot.merge.operations import Operation, Operations
from bot.records import ConfigEdit

FLAG = "tie_word_embeddings"


def untie(operations: Operations, *, names: Names, keep_tied: bool) -> set[str]:
    """Completes `operations` for tied parameters and returns those that become tensors of their own.

    `keep_tied` is PEFT's `ensure_weight_tying`: the same change was trained on all of a group.
    """
    untied: set[str] = set()
    for group in tied_groups(names):
        changes = {m: operations.of[m] for m in group if m in operations.of}
        if not changes:
            continue
        if keep_tied and any(change.method == "dora" for change in changes.values()):
            raise RefusedError(
                f"The adapter trains DoRA on {group[0]} and what is tied to it, whose norms run along other axes.",
                advice="Deploy it as an adapter, or train the embeddings without DoRA.",
                code="tied-weights",
            )
        if keep_tied and len(changes) == len(group):
            _merge_once(operations, group=group, names=names)
        elif not any(change.own for change in changes.values()):
            _merge_once(operations, group=[m for m in group if m in changes], names=names, everywhere=group)
        elif all(change.own for change in changes.values()) or (
            len(changes) == len(group) and all(change.method == "replace" for change in changes.values())
        ):
            untied |= _separate(operations, group=group, names=names)
        else:
            raise RefusedError(
                f"The adapter stores {' and '.join(changes)} both as a shared weight and as one of its own.",
                advice="Save the adapter again without save_embedding_layers.",
                code="contradiction",
            )
    return untied


def tied_groups(names: Names) -> list[list[str]]:
    """Groups of parameters that share their storage."""
    groups: dict[str, list[str]] = {}
    for target, source in names.tied.items():
        groups.setdefault(source, [source]).append(target)
    return list(groups.values())


def _merge_once(
    operations: Operations, *, group: list[str], names: Names, everywhere: list[str] | None = None
) -> None:
    """One change for all members: each that lies on disk gets it, and all its adapter tensors are consumed."""
    changes = [operations.of.pop(m) for m in group]
    members = everywhere or group
    on_disk = [m for m in members if m in names.disk] or members[:1]
    others = tuple(key for change in changes[1:] for key in change.adapter)
    for member in on_disk:
        kind = changes[group.index(member)] if member in group else changes[0]
        keys = kind.adapter + tuple(k for k in changes[0].adapter + others if k not in kind.adapter)
        operations.of[member] = replace(kind, adapter=keys)


def _separate(operations: Operations, *, group: list[str], names: Names) -> set[str]:
    """Every member becomes a tensor of its own; members without a change are copies."""
    absent = [m for m in group if m not in names.disk]
    for member in absent:
        operations.of.setdefault(member, Operation(method="copy", adapter=(), own=True))
    return set(group)


def untie_edits(
    config: dict[str, Any], *, model: PreTrainedModel, untied: set[str], operations: Operations, names: Names
) -> list[ConfigEdit]:
    """The edits to config.json that make transformers keep the members apart; completes `operations` for the others.

    Raises RefusedError where the architecture cannot, or where the flag means more than tying (udop, umt5 and
    others scale their output by it).
    """
    if not untied:
        return []
    keys = [FLAG, *(f"{k}.{FLAG}" for k, v in config.items() if isinstance(v, dict) and FLAG in v)]
    edited = edited_config(config, dict.fromkeys(keys, False))
    before, after = load_config(config, name="the base"), load_config(edited, name="the base")
    separate = build_virtual(after, model_class=type(model).__name__)
    still_tied = set(separate.all_tied_weights_keys) | set(separate.all_tied_weights_keys.values())
    if still_tied & untied or _flag_means_more(model) or _differences(before, after) > {FLAG}:
        raise RefusedError(
            f"The adapter changes {min(untied)}, and {type(model).__name__} cannot store it apart from what it shares.",
            advice="Train with ensure_weight_tying=True, or without embeddings and head in the adapter.",
            code="tied-weights",
        )
    _part_others(operations, names=names, tied=still_tied)
    reason = "the adapter changes the embeddings and the head differently"
    return [ConfigEdit(key=k, before=_get(config, k), after=False, reason=reason) for k in keys]


def _part_others(operations: Operations, *, names: Names, tied: set[str]) -> None:
    """The flag parts every group, so what shared beside the changed one is stored as well (BERT's bias of its head)."""
    for group in tied_groups(names):
        twin = next((operations.of[m] for m in group if m in operations.of), None)
        present = any(m in names.disk for m in group)
        for member in group if present else ():
            if member not in names.disk and member not in tied:
                operations.of.setdefault(member, twin or Operation(method="copy", adapter=(), own=True))


def _flag_means_more(model: PreTrainedModel) -> bool:
    return FLAG in inspect.getsource(type(model).forward)


def _differences(before: PretrainedConfig, after: PretrainedConfig) -> set[str]:
    first, second = before.to_dict(), after.to_dict()
    differ = {k for k in first.keys() | second.keys() if first.get(k) != second.get(k)}
    nested = {k for k in differ if isinstance(first.get(k), dict) and isinstance(second.get(k), dict)}
    inner = {
        i for k in nested for i in first[k].keys() | second[k].keys() if first[k].get(i) != second[k].get(i)
    }
    return (differ - nested) | inner | {FLAG}


def _get(config: dict[str, Any], key: str) -> Any:
    head, _, rest = key.partition(".")
    value = config.get(head)
    return _get(value, rest) if rest and isinstance(value, dict) else value
