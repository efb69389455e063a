"""Which adapters can be combined, and which can follow others in a stack: rules over plans and configs. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bot.errors import RefusedError
from bot.plan.recipe import LINEAR
from bot.records import Binding, ConfigEdit, Pinned, Plan

PLAIN = frozenset({"lora", "lora_converted"})
COMBINED = PLAIN | {"copy"}  # a head that is untied from embeddings which change
WHAT = {
    "dora": "DoRA, whose magnitudes belong to its own sum of base and delta",
    "pissa": "PiSSA, whose delta is counted from a changed base",
    "olora": "OLoRA, whose delta is counted from a changed base",
    "lora_bias": "a trained bias (lora_bias), which the method leaves out",
    "lora_parameter": "target_parameters, which the method does not take",
    "replace": "whole tensors (modules_to_save, bias or tokens), which have no delta to be weighted",
    "trainable_tokens": "trainable tokens, which the method leaves out",
}
# What these take out of the base's weights is done again from the weights that are there: the base's own.
FROM_BASE = {"PSOFT": "PSOFT", "OSF": "OSF", "FROD": "FRoD", "TINYLORA": "TinyLoRA"}
INITS_FROM_BASE = {"pissa": "PiSSA", "olora": "OLoRA"}


def check_combination(plans: Sequence[Plan]) -> None:
    """Raises RefusedError unless every plan (of one adapter on the base) is plain LoRA, of one kind."""
    for plan in plans:
        if plan.peft_type != "LORA":
            raise _not_combined(
                plan.adapter, f"is of the PEFT type {plan.peft_type}, and only LoRA can be combined"
            )
        if plan.adapter_config.get("ensure_weight_tying"):
            raise _not_combined(plan.adapter, "keeps tied weights tied (ensure_weight_tying)")
        for binding in plan.bindings:
            if binding.method not in COMBINED:
                method = binding.method.removesuffix("_converted")
                raise _not_combined(plan.adapter, f"has {WHAT.get(method, method)}, in {binding.parameter}")
    first = plans[0]
    for plan in plans[1:]:
        turned = [bool(p.adapter_config.get("fan_in_fan_out")) for p in (first, plan)]
        if plan.model_class != first.model_class or turned[0] != turned[1]:
            raise RefusedError(
                f"{first.adapter} was trained on {first.model_class} with fan_in_fan_out {turned[0]}, and"
                f" {plan.adapter} on {plan.model_class} with {turned[1]}: one adapter cannot be both.",
                advice="Combine adapters of one task, or merge them with --stack.",
                code="adapters-differ",
            )


def largest_rank(config: Mapping[str, Any]) -> int:
    """The largest rank that a config speaks of, as PEFT counts it."""
    return int(max([config.get("r", 8), *(config.get("rank_pattern") or {}).values()]))


def check_ranks(plans: Sequence[Plan], method: str) -> None:
    """Raises RefusedError for ranks that differ, where the method adds A to A and B to B."""
    ranks = [largest_rank(plan.adapter_config) for plan in plans]
    if method in LINEAR and len(set(ranks)) > 1:
        told = ", ".join(f"{plan.adapter} has rank {r}" for plan, r in zip(plans, ranks, strict=True))
        raise RefusedError(
            f"{told}: {method} adds up their A and their B, which takes equal ranks.",
            advice="Use --combination cat (the exact weighted sum) or svd, which take different ranks.",
            code="ranks-differ",
        )


def check_streamed(plans: Sequence[Plan]) -> None:
    """Raises RefusedError for a stack of which one adapter needs the whole model: stages pass tensors on."""
    needy = [plan for plan in plans if plan.way == "whole"]
    if needy:
        raise RefusedError(
            f"{needy[0].adapter} cannot be streamed, and a stack is merged tensor by tensor, all adapters at once.",
            advice="Merge the adapters one by one, each into the result of the one before it.",
            code="stack-not-streamed",
        )


def is_sum(stages: Sequence[Plan]) -> bool:
    """Whether a stack is the plain sum of its deltas, so that it can be made as one adapter."""
    return all(
        stage.peft_type == "LORA"
        and stage.model_class == stages[0].model_class
        and not (stage.added or stage.config_edits or stage.adapter_config.get("ensure_weight_tying"))
        and all(binding.method in PLAIN for binding in stage.bindings)
        for stage in stages
    )


def check_follows(name: str, config: dict[str, Any]) -> None:
    """Raises RefusedError for an adapter that takes its start out of the base: behind another it is not the same."""
    init = config.get("init_lora_weights")
    kasa = "KaSA" if config.get("kasa_config") else None
    what = kasa or FROM_BASE.get(str(config.get("peft_type"))) or INITS_FROM_BASE.get(str(init))
    if what:
        raise RefusedError(
            f"{name} takes its start out of the weights that it was trained on ({what}), and what those were"
            " behind another adapter is not known.",
            advice="Put it first. Or, if it was trained on the merged model: merge the others, then merge it with"
            " --base on the result.",
            code="stack-order",
        )


def check_stays_tied(plan: Plan, *, last: bool) -> None:
    """Raises RefusedError for an adapter that keeps a tie, unless it is the last."""
    if plan.adapter_config.get("ensure_weight_tying") and not last:
        raise RefusedError(
            f"{plan.adapter} keeps tied weights tied (ensure_weight_tying), which only the last of a stack can.",
            advice="Put it last, or merge it alone and merge the others with --base on the result.",
            code="stack-order",
        )


def check_distinct(adapters: Sequence[Pinned]) -> None:
    """Raises RefusedError for an adapter that is named twice."""
    seen: dict[tuple[str, str, str], Pinned] = {}
    for pinned in adapters:
        place = pinned.location if pinned.kind == "hub" else ""
        twin = seen.setdefault((place, pinned.commit, pinned.subfolder), pinned)
        if twin is not pinned:
            raise RefusedError(
                f"{twin} and {pinned} are the same adapter.",
                advice="Name it once; in a combination, with the sum of its weights.",
                code="adapter-twice",
            )


def joined_bindings(stages: Sequence[Plan], *, base: frozenset[str]) -> tuple[Binding, ...]:
    """One binding for each tensor that any stage changes; `base` are the names of the base's tensors.

    Its method names what the stages do to it. Source is what the first of them starts from.
    """
    found: dict[str, list[Binding]] = {}
    for stage in stages:
        for binding in stage.bindings:
            found.setdefault(binding.tensor, []).append(binding)
    return tuple(_joined(bindings, base=base) for bindings in found.values())


def _joined(bindings: list[Binding], *, base: frozenset[str]) -> Binding:
    first, last = bindings[0], bindings[-1]
    methods = [b.method.removesuffix("_converted") for b in bindings]
    converted = "_converted" if any(b.method.endswith("_converted") for b in bindings) else ""
    return Binding(
        tensor=last.tensor,
        source=first.source if first.source in base else None,
        parameter=last.parameter,
        method=f"stacked_{'_then_'.join(methods)}{converted}",
        adapter=tuple(dict.fromkeys(key for b in bindings for key in b.adapter)),
        shape=last.shape,
        dtype=last.dtype,
    )


def _not_combined(adapter: Pinned, reason: str) -> RefusedError:
    return RefusedError(
        f"{adapter} {reason}.",
        advice="PEFT's add_weighted_adapter combines plain LoRA alone; --stack merges any types one after the other.",
        code="combination-unsupported",
    )


def joined_edits(stages: Sequence[Plan]) -> list[ConfigEdit]:
    """One edit for each key: from what the base has to what the last stage makes of it."""
    found: dict[str, ConfigEdit] = {}
    for edit in (e for stage in stages for e in stage.config_edits):
        before = found.get(edit.key, edit).before
        found[edit.key] = replace(edit, before=before)
    return list(found.values())
