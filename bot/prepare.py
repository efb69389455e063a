"""The plan stage with its surroundings: opens adapter and base, and decides everything."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from bot.admission import Look, admit, chosen_sidecars, seen_by
from bot.errors import RefusedError
from bot.isolation import room
from bot.opening import Opened, OpenedBase, open_adapter, open_base
from bot.plan import (
    adapter_config,
    companions,
    dtype,
    fit,
    key,
    limits,
    old_patterns,
    parity,
    patterns,
    remote_code,
    shardwise,
    sidecars,
)
from bot.plan.base_model import CONFIG, Base
from bot.plan.binding import bind_by_names
from bot.plan.estimate import estimate
from bot.plan.publication import Source
from bot.plan.rules import evidence
from bot.progress import Progress
from bot.records import Bound, Estimate, MergeWay, Plan
from bot.request import MergeRequest
from bot.shard import Traffic
from bot.terms import Terms
from bot.weights.files import Hub, Model
from bot.weights.layout import Layout

NOT_STREAMED = frozenset({"converted-weights"})  # refusals that speak of our streaming, not of the merge

BIND = "bot.merge.binding:bind"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The plan, and what was opened to make it.

    Of several adapters, `opened` is what was made of them, in a folder, and `further` are they themselves. `sources`:
    what decides who may see the result.
    """

    plan: Plan
    opened: Opened
    found: OpenedBase
    further: tuple[Model, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def adapter(self) -> Model:
        """The adapter that is merged."""
        return self.opened.adapter

    @property
    def base(self) -> Model:
        """The base as it was found."""
        return self.found.base.model

    @property
    def layout(self) -> Layout:
        """The base's tensors as the merge starts from them."""
        return self.found.layout

    @property
    def config(self) -> dict[str, Any]:
        """The base's config.json, without what was true of its quantised weights only."""
        return self.found.base.config


def prepare(
    request: MergeRequest,
    *,
    hub: Hub,
    progress: Progress,
    terms: Terms | None = None,
    look: Look | None = None,
) -> Prepared:
    """Makes the plan. Reads JSON files and safetensors headers only.

    `look` tells whether a destination on the Hub is private; without it, the reading token looks.

    Raises InputError, RefusedError, AccessError or HostError: whatever can be known to stand in the way is known now.
    """
    progress.say(f"Planning {request.adapter}")
    terms = terms or Terms()
    opened = open_adapter(request.adapter, request=request, hub=hub, terms=terms)
    found = open_base(opened, request=request, hub=hub, terms=terms)
    sources, notes = admit([opened], found, request=request, terms=terms, look=look or seen_by(hub))
    plan = plan_one(request, opened=opened, base=found.base, layout=found.layout)
    plan = as_found(replace(plan, notes=(*plan.notes, *notes)), opened=opened, found=found)
    plan = shardwise.within(plan, request.scratch_limit)
    limits.check_estimate(terms.limits, plan.estimate)
    return Prepared(plan=plan, opened=opened, found=found, sources=sources)


def as_found(plan: Plan, *, opened: Opened, found: OpenedBase) -> Plan:
    """The plan with what has to be done to the files before the merge: what is dequantised or was pickled."""
    estimate = plan.estimate
    disk, download = estimate.disk_bytes, estimate.download_bytes
    if found.quantised or found.pickles:  # written out, until the merge is checked
        disk += found.layout.total_bytes
    download += found.fetched_bytes
    disk += (opened.header.file_size if opened.pickle else 0) + download - estimate.download_bytes
    pickles = ", ".join([*opened.pickles.values(), *found.pickles.values()])
    plan = replace(plan, dequantized=found.quantised.title if found.quantised else "")
    note = f"{pickles}: pickle, read as tensors and nothing else (weights_only), and merged as safetensors"
    return replace(
        plan,
        traffic=_traffic(plan, opened=opened, found=found),
        config_edits=(*(found.quantised.edits if found.quantised else ()), *plan.config_edits),
        estimate=replace(estimate, disk_bytes=disk, download_bytes=download),
        notes=(*plan.notes, *([note] if pickles else [])),
    )


def _traffic(plan: Plan, *, opened: Opened, found: OpenedBase) -> Traffic | None:
    """What the merge moves when it goes shard by shard; None where it is not for the Hub."""
    if plan.destination is None or plan.destination.kind == "folder":
        return None
    files, remote = found.base.model.files, found.base.model.pinned.kind == "hub"
    portions = shardwise.portions(plan, base=found.layout, digests=files.digests(), remote=remote)
    there = {"adapter": opened.adapter.files.sizes(), "base": files.sizes()}
    small = sum(there[s.origin].get(s.name, 0) for s in plan.sidecars) + there["base"].get(CONFIG, 0)
    beside = opened.fetched_bytes + 2 * small + len(found.layout.index or "")  # as it comes, and as it goes
    why_not = shardwise.obstacle(plan, pickled=bool(found.pickles or opened.pickle))
    return shardwise.traffic(portions, beside=beside, why_not=why_not)


def _bind(
    request: MergeRequest, *, opened: Opened, base: Base, layout: Layout
) -> tuple[Bound, MergeWay, list[str]]:
    """By names where they tell all, else by looking at the model, which imports transformers and PEFT.

    What cannot be streamed is left to transformers, which loads the model; the notes say why.
    """
    if request.parity == "peft":
        _check_streamed(request)
        parity.check_adapter(opened.patches, renamed=opened.renamed)
    tensors = opened.tensors
    shapes = evidence.Evidence.of((t.name, t.shape) for t in tensors.values())
    fit.check(shapes, layout, config=opened.config, name=base.model.files.name)
    if old_patterns.is_open(opened.config):
        _look("bot.plan.old_patterns:check", adapter_config=opened.config, modules=sorted(shapes.modules))
    bindings = bind_by_names(base.config, adapter_config=opened.config, tensors=tensors, layout=layout)
    if bindings and request.parity == "exact" and request.way == "auto":
        model_class, vocabulary = base.config["architectures"][0], base.config["vocab_size"]
        return Bound(model_class=model_class, vocabulary=vocabulary, bindings=bindings), "names", []
    look: Any = {
        "adapter_config": opened.config,
        "tensors": tensors,
        "layout": layout,
        "name": base.model.files.name,
    }
    if request.parity == "peft":
        return _look("bot.merge.parity:bind_as_peft", base.config, **look, named=bool(bindings)), "layers", []
    reason = "as asked for with --way"
    if request.way == "auto":
        try:
            return _look(BIND, base.config, **look), "layers", []
        except RefusedError as refusal:
            if refusal.code not in NOT_STREAMED:
                raise
            reason = refusal.sentence.rstrip(".")
    note = f"the whole model is loaded by transformers for the merge: {reason}"
    return _look(BIND, base.config, **look, whole=True), "whole", [note]


def _look(function: str, *config: dict[str, Any], **look: Any) -> Any:
    """In the worker: it matches a stranger's regular expressions, and builds the model that they speak of."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return room.call(function, *config, **look, timed=True, memory=memory)
    except room.TooLongError as error:
        raise patterns.too_long(look["adapter_config"], seconds=error.seconds) from None


def _check_streamed(request: MergeRequest) -> None:
    if request.way != "auto":
        raise RefusedError(
            "--parity peft is not made out of a whole model: its rounding is reproduced on the base's own tensors.",
            advice="Leave out --way or --parity.",
            code="parity-whole",
        )


def plan_one(request: MergeRequest, *, opened: Opened, base: Base, layout: Layout) -> Plan:
    """The plan for one adapter on a base. The estimate leaves out what fetching the base costs."""
    adapter, name = opened.adapter, base.model.files.name
    bound, way, why = _bind(request, opened=opened, base=base, layout=layout)
    start = opened.initial
    first = start.model.pinned if start else None
    beside, odd = chosen_sidecars(adapter.files, base=base.model.files)
    if any(s.origin == "adapter" and s.name in sidecars.VOCABULARY for s in beside):
        odd += sidecars.check_vocabulary(
            adapter.files, base=base.model.files, rows=bound.vocabulary, name=name
        )
    return Plan(
        key=key.job_key(
            adapter.pinned,
            base=base.model.pinned,
            request=request,
            initial=first,
        ),
        adapter=adapter.pinned,
        base=base.model.pinned,
        base_found_by=base.found_by,
        peft_type=str(opened.config["peft_type"]),
        task_type=opened.config.get("task_type"),
        model_class=bound.model_class,
        way=way,
        adapter_config=bound.adapter_config or opened.config,
        adapter_file=adapter_config.WEIGHTS,
        renamed=_modern(opened.renamed, bound),
        experts=bound.experts,
        dropped=bound.dropped,
        patches=(*opened.patches, *bound.patches),
        bindings=bound.bindings,
        added=bound.added,
        config_edits=(
            *bound.config_edits,
            *dtype.edits(base.config, dtype=request.dtype),
            *remote_code.edits(base.config),
        ),
        sidecars=beside,
        shards=tuple(s.file for s in layout.shards),
        dtype=request.dtype,
        parity=request.parity,
        destination=request.destination,
        estimate=_estimate(request, opened=opened, layout=layout, bound=bound, way=way),
        notes=(
            *base.notes,
            *adapter_config.beside(adapter.files),
            *companions.notes(adapter.files),
            *_started(opened, base=base.model),
            *_renaming(_modern(opened.renamed, bound)),
            *odd,
            *why,
            *bound.notes,
        ),
        initial=first,
        initial_renamed=_modern(start.renamed, bound) if start else {},
    )


def _modern(renamed: dict[str, str], bound: Bound) -> dict[str, str]:
    """Names in a file → names in the model, where they differ."""
    return {**bound.renamed, **{k: bound.renamed.get(v, v) for k, v in renamed.items()}}


def _started(opened: Opened, *, base: Model) -> list[str]:
    """What there is to say about a start that changed the base."""
    if opened.initial is not None:
        return [f"the initial adapter {opened.initial.model.pinned} is subtracted: W + s·(BA - B₀A₀)"]
    if any(patch.rule == "residual-base" for patch in opened.patches):
        return [f"{base.files.name} is taken as the residual base, as told by --base"]
    return []


def _renaming(renamed: dict[str, str]) -> list[str]:
    if not renamed:
        return []
    old, new = next(iter(renamed.items()))
    return [f"{len(renamed)} adapter tensors have names that PEFT would pass over: {old} is read as {new}"]


def _estimate(
    request: MergeRequest, *, opened: Opened, layout: Layout, bound: Bound, way: MergeWay
) -> Estimate:
    return estimate(
        layout,
        bindings=bound.bindings,
        added=bound.added,
        dtype=request.dtype,
        adapter_bytes=opened.weights_bytes,
        download_bytes=opened.fetched_bytes,
        dropped=bound.dropped,
        whole=way == "whole",
    )
