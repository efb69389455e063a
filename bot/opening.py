"""Opens adapter and base as they were found: configs and headers, no weights. What they show to be wrong is raised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bot.errors import RefusedError
from bot.isolation import room
from bot.plan import adapter_config, adapter_keys, base_model, companions, limits, patches, policy, reference
from bot.plan import initial as starts
from bot.plan.base_model import Base
from bot.plan.initial import Initial
from bot.plan.local import open_folder
from bot.plan.rules import evidence
from bot.progress import Progress
from bot.records import Patch, Pinned
from bot.request import MergeRequest
from bot.terms import Terms
from bot.weights.archive import read_pickled_header, read_pickled_layout
from bot.weights.files import Files, Hub, LocalFiles, Model
from bot.weights.header import Header, TensorSpec
from bot.weights.layout import Layout, is_only_pickle, read_header, read_layout
from bot.weights.quantised.logical import Quantised, read_quantised


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An adapter as it was found: its patched config and the header of its weights.

    `pickle` is the file that the weights are there as, when they are there only as pickle; the header is then that of
    the safetensors file that is made of it. `renamed`: its tensors that are read under another name. With `initial`,
    which is to be subtracted, config and `tensors` are those of the plain LoRA that the two make.
    """

    adapter: Model
    header: Header
    config: dict[str, Any]
    patches: tuple[Patch, ...] = ()
    renamed: dict[str, str]
    pickle: str = ""
    initial: Initial | None = None

    @property
    def pickles(self) -> dict[str, str]:
        """The pickle file, by the name of what is made of it; else empty."""
        return {adapter_config.WEIGHTS: self.pickle} if self.pickle else {}

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        """The adapter's tensors by the names that PEFT has for them."""
        names = [self.renamed.get(t.name, t.name) for t in self.header.tensors]
        found = {n: replace(t, name=n) for n, t in zip(names, self.header.tensors, strict=True)}
        return starts.stacked(found) if self.initial else found

    @property
    def weights_bytes(self) -> int:
        """The size of the weights, with those of the initial adapter."""
        return self.header.file_size + (self.initial.header.file_size if self.initial else 0)

    @property
    def fetched_bytes(self) -> int:
        """What the weights cost to fetch."""
        return self.weights_bytes if self.adapter.pinned.kind == "hub" else 0


@dataclass(frozen=True, kw_only=True)
class OpenedBase:
    """A base as it was found. `layout` is what the merge starts from, `stored` what lies there.

    They differ with `quantised`, which says how to dequantise it, and with `pickles`: the pickle files by the names of
    the safetensors files that are made of them.
    """

    base: Base
    layout: Layout
    stored: Layout
    quantised: Quantised | None = None
    pickles: dict[str, str]

    @property
    def weights_bytes(self) -> int:
        """The size of the weights as they lie there."""
        sizes = self.base.model.files.sizes()
        return sum(sizes[self.pickles.get(s.file, s.file)] for s in self.stored.shards)

    @property
    def fetched_bytes(self) -> int:
        """What the weights cost to fetch."""
        return self.weights_bytes if self.base.model.pinned.kind == "hub" else 0


def reopen(pinned: Pinned, *, hub: Hub) -> Model | None:
    """The model at the state that a plan has pinned; None for a local folder that is gone."""
    if pinned.kind == "hub":
        return hub.open(pinned.location, revision=pinned.commit, subfolder=pinned.subfolder)
    return open_folder(Path(pinned.location)) if Path(pinned.location).is_dir() else None


def open_reference(text: str, *, hub: Hub) -> Model:
    """The adapter as the user wrote it down."""
    found = reference.parse(text)
    if found.folder is not None:
        return open_folder(found.folder)
    return hub.open(str(found.repo_id), revision=found.revision, subfolder=found.subfolder)


def open_adapter(text: str, *, request: MergeRequest, hub: Hub, terms: Terms) -> Opened:
    """The adapter as the user wrote it down. Raises what its config and its header show to be wrong.

    What has changed the base at its start is looked for where there is one adapter only.
    """
    adapter = open_reference(text, hub=hub)
    _, original = adapter_config.read(adapter.files)
    seen = evidence.header_of(adapter.files)
    config, patched = patches.apply(original, evidence.of(seen) if seen else None)
    start = None if request.further else _start(request, adapter=adapter, config=config, hub=hub)
    if start is None and not request.further and starts.is_another_base(request.base, config=config):
        config, more = starts.residual_config(config, base=str(request.base))
        patched = (*patched, *more)
    policy.check(config if start is None else {**config, starts.INIT: True})
    companions.check(adapter.files)
    weights, header = _header(adapter.files, seen=seen, allow_pickle=request.allow_pickle, terms=terms)
    limits.check_adapter(terms.limits, adapter.files.name, config=config, tensors=header.tensors)
    adapter_keys.check_dtypes(header.tensors)
    opened = Opened(
        adapter=adapter,
        header=header,
        config=config,
        patches=patched,
        renamed=adapter_keys.renames(t.name for t in header.tensors),
        pickle=weights if weights == adapter_config.PICKLE else "",
    )
    return opened if start is None else _started(opened, start=start, terms=terms)


def _start(request: MergeRequest, *, adapter: Model, config: dict[str, Any], hub: Hub) -> Model | None:
    """The adapter's initial state: the one that was named, or for a start that needs it the one beside it."""
    if request.initial_adapter is not None:
        return open_reference(request.initial_adapter, hub=hub)
    return starts.inside(adapter, hub=hub) if starts.needs(config) else None


def _started(opened: Opened, *, start: Model, terms: Terms) -> Opened:
    """The plain LoRA of twice the rank that the adapter and its initial state make."""
    found = starts.read(start, config=opened.config, tensors=opened.tensors)
    name, tensors = start.files.name, found.header.tensors
    limits.check(terms.limits, adapter_bytes=(f"The weights of {name} have", found.header.file_size))
    limits.check_adapter(terms.limits, name, config={}, tensors=tensors)
    config, more = starts.stacked_config(opened.config)
    return replace(opened, config=config, patches=(*opened.patches, *more), initial=found)


def _header(files: Files, *, seen: Header | None, allow_pickle: bool, terms: Terms) -> tuple[str, Header]:
    weights = adapter_config.weights_file(files, allow_pickle=allow_pickle)
    size = files.sizes()[weights]
    limits.check(terms.limits, adapter_bytes=(f"The weights of {files.name} have", size))
    if weights != adapter_config.PICKLE:  # read again, what could not be read says why
        return weights, seen or read_header(files, weights, size=size)
    return weights, read_pickled_header(files, weights, interpret=_interpret)


def open_base(opened: Opened, *, request: MergeRequest, hub: Hub, terms: Terms) -> OpenedBase:
    """The base that the request or the adapter names, as the merge will start from it, within the limits."""
    found = _open_base(opened, request=request, hub=hub)
    name = found.base.model.files.name
    limits.check(
        terms.limits,
        base_bytes=(f"The weights of {name} have", found.weights_bytes),
        tensors=(f"The tensors of {name} are", len(found.stored.tensors)),
    )
    return found


def _open_base(opened: Opened, *, request: MergeRequest, hub: Hub) -> OpenedBase:
    base = base_model.resolve(
        opened.adapter,
        adapter_config=opened.config,
        override=request.base,
        revision=request.base_revision,
        hub=hub,
        quantized=request.quantized_base,
    )
    stored, pickles = _layout(base.model.files, allow_pickle=request.allow_pickle)
    quantised = read_quantised(base.model.files, config=base.config, layout=stored)
    if quantised is None:
        return OpenedBase(base=base, layout=stored, stored=stored, pickles=pickles)
    if pickles:
        raise RefusedError(
            f"{base.model.files.name} is quantised and lies there only as pickle.",
            advice="Name the model that it was made from with --base.",
            code="base-quantised",
        )
    base = replace(base, config=quantised.config, notes=(*base.notes, quantised.note))
    return OpenedBase(base=base, layout=quantised.logical, stored=stored, quantised=quantised, pickles={})


def _layout(files: Files, *, allow_pickle: bool) -> tuple[Layout, dict[str, str]]:
    """The base's layout, and the pickle files that it is to be made of, if any."""
    if not (allow_pickle and is_only_pickle(files.sizes())):
        return read_layout(files), {}
    return read_pickled_layout(files, interpret=_interpret)


def _interpret(outline: bytes, label: str) -> Header:
    header: Header = room.call("bot.weights.pickled:header_of", outline, label)
    return header


def local(model: Model, *, names: list[str], hub: Hub, progress: Progress) -> Path:
    """A folder on this machine that holds these files of the model: its own, or a copy of the Hub's."""
    if isinstance(model.files, LocalFiles):
        return model.files.folder
    return hub.download(model, names=names, progress=progress)
