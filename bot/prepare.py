"""The plan stage with its surroundings: opens adapter and base, decides everything, and fetches what was decided."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bot.plan import (
    adapter_config,
    adapter_keys,
    base_model,
    dtype,
    key,
    patches,
    policy,
    reference,
    sidecars,
)
from bot.plan.base_model import CONFIG, Base
from bot.plan.binding import bind_by_names
from bot.plan.estimate import estimate
from bot.plan.local import open_folder
from bot.progress import Progress
from bot.records import Bound, Estimate, MergeRequest, Patch, Pinned, Plan
from bot.weights.files import Hub, LocalFiles, Model
from bot.weights.header import Header
from bot.weights.layout import INDEX, Layout, read_header, read_layout
from bot.weights.quantised.logical import Quantised, read_quantised


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The plan, and what was opened to make it. `config` is the base's config.json.

    Of several adapters, `adapter` is what was made of them, in a folder, and `further` are they themselves.
    With `quantised`, layout and config are those of the base once it is dequantised.
    """

    plan: Plan
    adapter: Model
    base: Model
    layout: Layout
    config: dict[str, Any]
    further: tuple[Model, ...] = ()
    quantised: Quantised | None = None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Local folders that hold every file of adapter and base that the plan needs."""

    adapter: Path
    base: Path


def reopen(pinned: Pinned, *, hub: Hub) -> Model | None:
    """The model at the state that a plan has pinned; None for a local folder that is gone."""
    if pinned.kind == "hub":
        return hub.open(pinned.location, revision=pinned.commit, subfolder=pinned.subfolder)
    return open_folder(Path(pinned.location)) if Path(pinned.location).is_dir() else None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An adapter as it was found: its patched config and the header of its weights."""

    adapter: Model
    weights: str
    header: Header
    config: dict[str, Any]
    patches: tuple[Patch, ...]
    renamed: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class OpenedBase:
    """A base as it was found; `layout` is what the merge starts from, with `quantised` its dequantised weights."""

    base: Base
    layout: Layout
    quantised: Quantised | None = None


def prepare(request: MergeRequest, *, hub: Hub, progress: Progress) -> Prepared:
    """Makes the plan. Reads JSON files and safetensors headers only.

    Raises InputError, RefusedError, AccessError or HostError: whatever can be known to stand in the way is known now.
    """
    progress.say(f"Planning {request.adapter}")
    opened = open_adapter(request.adapter, hub=hub)
    found = open_base(opened, request=request, hub=hub)
    plan = plan_one(request, opened=opened, base=found.base, layout=found.layout)
    return Prepared(
        plan=dequantised(plan, found.quantised),
        adapter=opened.adapter,
        base=found.base.model,
        layout=found.layout,
        config=found.base.config,
        quantised=found.quantised,
    )


def open_adapter(text: str, *, hub: Hub) -> Opened:
    """The adapter as the user wrote it down. Raises what its config and its header show to be wrong."""
    adapter = open_reference(text, hub=hub)
    _, original = adapter_config.read(adapter.files)
    config, patched = patches.apply(original)
    policy.check(config)
    weights = adapter_config.weights_file(adapter.files)
    header = read_header(adapter.files, weights, size=adapter.files.sizes()[weights])
    renamed = adapter_keys.renames(t.name for t in header.tensors)
    return Opened(
        adapter=adapter, weights=weights, header=header, config=config, patches=patched, renamed=renamed
    )


def open_base(opened: Opened, *, request: MergeRequest, hub: Hub) -> OpenedBase:
    """The base that the request or the adapter names, as the merge will start from it."""
    base = base_model.resolve(
        opened.adapter,
        adapter_config=opened.config,
        override=request.base,
        revision=request.base_revision,
        hub=hub,
        quantized=request.quantized_base,
    )
    layout = read_layout(base.model.files)
    quantised = read_quantised(base.model.files, config=base.config, layout=layout)
    if quantised is not None:
        layout = quantised.logical
        base = replace(base, config=quantised.config, notes=(*base.notes, quantised.note))
    return OpenedBase(base=base, layout=layout, quantised=quantised)


def dequantised(plan: Plan, quantised: Quantised | None) -> Plan:
    """The plan of a merge into dequantised weights, which lie on the disk until it is checked."""
    if quantised is None:
        return plan
    disk = plan.estimate.disk_bytes + quantised.logical.total_bytes
    return replace(
        plan,
        dequantized=quantised.title,
        config_edits=(*quantised.edits, *plan.config_edits),
        estimate=replace(plan.estimate, disk_bytes=disk),
    )


def open_reference(text: str, *, hub: Hub) -> Model:
    """The adapter as the user wrote it down."""
    found = reference.parse(text)
    if found.folder is not None:
        return open_folder(found.folder)
    return hub.open(str(found.repo_id), revision=found.revision, subfolder=found.subfolder)


def _bind(opened: Opened, *, base: Base, layout: Layout) -> tuple[Bound, Literal["names", "layers"]]:
    """By names where they tell all, else by looking at the model, which imports transformers and PEFT."""
    names = [opened.renamed.get(t.name, t.name) for t in opened.header.tensors]
    tensors = {n: replace(t, name=n) for n, t in zip(names, opened.header.tensors, strict=True)}
    bindings = bind_by_names(base.config, adapter_config=opened.config, tensors=tensors, layout=layout)
    if bindings:
        model_class, vocabulary = base.config["architectures"][0], base.config["vocab_size"]
        return Bound(model_class=model_class, vocabulary=vocabulary, bindings=bindings), "names"
    from bot.merge.binding import bind  # noqa: PLC0415 - torch and transformers: not before cheaper refusals

    name = base.model.files.name
    return bind(
        base.config, adapter_config=opened.config, tensors=tensors, layout=layout, name=name
    ), "layers"


def plan_one(request: MergeRequest, *, opened: Opened, base: Base, layout: Layout) -> Plan:
    """The plan for one adapter on a base."""
    adapter, name = opened.adapter, base.model.files.name
    bound, way = _bind(opened, base=base, layout=layout)
    beside = sidecars.choose(adapter.files, base=base.model.files)
    if any(s.origin == "adapter" and s.name in sidecars.VOCABULARY for s in beside):
        sidecars.check_vocabulary(adapter.files, rows=bound.vocabulary, name=name)
    return Plan(
        key=key.job_key(adapter.pinned, base=base.model.pinned, request=request),
        adapter=adapter.pinned,
        base=base.model.pinned,
        base_found_by=base.found_by,
        peft_type=str(opened.config["peft_type"]),
        task_type=opened.config.get("task_type"),
        model_class=bound.model_class,
        way=way,
        adapter_config=opened.config,
        adapter_file=opened.weights,
        renamed=opened.renamed,
        patches=opened.patches,
        bindings=bound.bindings,
        added=bound.added,
        config_edits=(*bound.config_edits, *dtype.edits(base.config, dtype=request.dtype)),
        sidecars=beside,
        shards=tuple(s.file for s in layout.shards),
        dtype=request.dtype,
        destination=request.destination,
        estimate=_estimate(request, opened=opened, base=base.model, layout=layout, bound=bound),
        notes=(*base.notes, *adapter_config.beside(adapter.files), *_renaming(opened.renamed), *bound.notes),
    )


def _renaming(renamed: dict[str, str]) -> list[str]:
    if not renamed:
        return []
    old, new = next(iter(renamed.items()))
    return [f"{len(renamed)} adapter tensors have names that PEFT would pass over: {old} is read as {new}"]


def _estimate(
    request: MergeRequest, *, opened: Opened, base: Model, layout: Layout, bound: Bound
) -> Estimate:
    sizes = base.files.sizes()
    mine = opened.header.file_size if opened.adapter.pinned.kind == "hub" else 0
    theirs = sum(sizes[s.file] for s in layout.shards) if base.pinned.kind == "hub" else 0
    return estimate(
        layout,
        bindings=bound.bindings,
        added=bound.added,
        dtype=request.dtype,
        adapter_bytes=opened.header.file_size,
        download_bytes=mine + theirs,
    )


def fetch(prepared: Prepared, *, hub: Hub, progress: Progress) -> Sources:
    """Brings the plan's files here: the adapter's, then the base's. Local folders stay where they are."""
    plan = prepared.plan
    chosen = {o: [s.name for s in plan.sidecars if s.origin == o] for o in ("adapter", "base")}
    stored = prepared.quantised.stored if prepared.quantised else prepared.layout
    index = [INDEX] if stored.index is not None else []
    adapter_names = [adapter_config.FILE, plan.adapter_file, *chosen["adapter"]]
    base_names = [CONFIG, *(s.file for s in stored.shards), *index, *chosen["base"]]
    return Sources(
        adapter=local(prepared.adapter, names=adapter_names, hub=hub, progress=progress),
        base=local(prepared.base, names=base_names, hub=hub, progress=progress),
    )


def local(model: Model, *, names: list[str], hub: Hub, progress: Progress) -> Path:
    """A folder on this machine that holds these files of the model."""
    if isinstance(model.files, LocalFiles):
        return model.files.folder
    return hub.download(model, names=names, progress=progress)
