"""The plan for several adapters: combined into one, or stacked. One adapter goes straight to `bot.prepare`.

Whatever becomes of them lies in a folder of its own, as if it were one adapter, for as long as the plan is in use.
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bot import prepare as single
from bot.admission import Look, admit, chosen_sidecars, seen_by
from bot.errors import InputError, RefusedError
from bot.isolation import room
from bot.opening import Opened, OpenedBase, local, open_adapter, open_base
from bot.plan import adapter_config, combination, dtype, key, limits, parity, recipe, shardwise, sidecars
from bot.plan.base_model import Base
from bot.plan.estimate import estimate
from bot.prepare import Prepared, as_found, plan_one
from bot.progress import Progress
from bot.records import AddedTensor, Patch, Pinned, Plan
from bot.request import MergeRequest, Recipe
from bot.temporary import TemporaryFolder
from bot.terms import Terms
from bot.weights.files import Hub, LocalFiles, Model
from bot.weights.layout import Layout, read_header
from bot.wording import counted

ORIGINAL = "adapter_config.original.json"


def prepare(
    request: MergeRequest,
    *,
    hub: Hub,
    progress: Progress,
    terms: Terms | None = None,
    look: Look | None = None,
) -> Prepared:
    """Makes the plan, as `bot.prepare` does; for several adapters it fetches them, and makes one of them.

    Raises InputError, RefusedError, AccessError or HostError.
    """
    parity.check_options(request)
    chosen = recipe.complete(request.recipe, count=1 + len(request.further))
    if chosen is None:
        return single.prepare(request, hub=hub, progress=progress, terms=terms, look=look)
    if request.initial_adapter is not None:
        raise InputError(
            "--initial-adapter belongs to one adapter, and several are named.",
            advice="Merge that adapter first, and the others into the result with --base.",
            code="usage",
        )
    request, terms = replace(request, recipe=chosen), terms or Terms()
    adapters = []
    for text in (request.adapter, *request.further):
        progress.say(f"Planning {text}")
        adapters.append(open_adapter(text, request=request, hub=hub, terms=terms))
    combination.check_distinct([a.adapter.pinned for a in adapters])
    found = _base(request, adapters, hub=hub, terms=terms)
    sources, said = admit(adapters, found, request=request, terms=terms, look=look or seen_by(hub))
    base, layout = found.base, found.layout
    stack = chosen.method == recipe.STACK
    plans = (_stages if stack else _singly)(request, adapters, base=base, layout=layout)
    for each in plans:  # before the adapters are fetched
        limits.check_estimate(terms.limits, each.estimate)
    place = TemporaryFolder("adapters")
    folder = place.path
    try:
        notes = _gather(folder, adapters, last=stack, hub=hub, progress=progress)
        if stack and not combination.is_sum(plans):
            combination.check_streamed(plans)
            plan = _stacked(request, adapters, plans, base=base, layout=layout, folder=folder)
        else:
            plan = _combined(request, adapters, plans, base=base, layout=layout, folder=folder)
    except BaseException:
        place.close()
        raise
    plan = _signed(request, plan, adapters, plans, base=base, notes=[*notes, *said])
    opened = replace(adapters[-1], adapter=_here(folder), pickle="")
    plan = shardwise.within(as_found(plan, opened=opened, found=found), request.scratch_limit)
    prepared = Prepared(
        plan=plan, opened=opened, found=found, further=tuple(a.adapter for a in adapters), sources=sources
    )
    weakref.finalize(prepared, place.close)  # the plan names what lies there
    return prepared


def _base(request: MergeRequest, adapters: Sequence[Opened], *, hub: Hub, terms: Terms) -> OpenedBase:
    """The one base of all. Raises RefusedError when they name different ones and the user names none."""
    asked = adapters if request.base is None else adapters[:1]
    found = [open_base(a, request=request, hub=hub, terms=terms) for a in asked]
    first = found[0]
    for opened, other in zip(adapters, found, strict=False):
        one, two = first.base.model.pinned, other.base.model.pinned
        if (one.location, one.commit, one.subfolder) != (two.location, two.commit, two.subfolder):
            raise RefusedError(
                f"{adapters[0].adapter.pinned} names the base {one}, and {opened.adapter.pinned} names {two}.",
                advice="If all of them fit one base, name it with --base.",
                code="bases-differ",
            )
    return first


def _singly(request: MergeRequest, adapters: Sequence[Opened], *, base: Base, layout: Layout) -> list[Plan]:
    """A plan for each adapter alone, so that none hides behind another what would have it refused."""
    plans = [plan_one(_plain(request), opened=opened, base=base, layout=layout) for opened in adapters]
    combination.check_combination(plans)
    return plans


def _stages(request: MergeRequest, adapters: Sequence[Opened], *, base: Base, layout: Layout) -> list[Plan]:
    """A plan for each adapter on what the ones before it make of the base."""
    plans: list[Plan] = []
    for opened in adapters:
        if plans:
            combination.check_follows(str(opened.adapter.pinned), opened.config)
            base = replace(base, config=room.call("bot.merge.stack:stage_config", base.config, plans[-1]))
            layout = room.call("bot.merge.stack:merged_layout", plans[-1], base=layout)
        plans.append(plan_one(_plain(request), opened=opened, base=base, layout=layout))
        combination.check_stays_tied(plans[-1], last=opened is adapters[-1])
    return plans


def _plain(request: MergeRequest) -> MergeRequest:
    return replace(request, further=(), recipe=None, dtype="auto")


def _gather(
    folder: Path, adapters: Sequence[Opened], *, last: bool, hub: Hub, progress: Progress
) -> list[str]:
    """Brings every adapter into the folder, each into its own subfolder, and one's small files. Says whose.

    Those are the tokenizer and what belongs to it, of the first adapter that has any (of the last, for a stack).
    """
    beside = {a.adapter.files.name: _sidecars(a.adapter) for a in adapters}
    for number, opened in enumerate(adapters, 1):
        model, place = opened.adapter, folder / str(number)
        place.mkdir()
        names = [adapter_config.FILE, opened.pickle or adapter_config.WEIGHTS]
        wanted = [*names, *beside[model.files.name]]
        here = local(model, names=wanted, hub=hub, progress=progress)
        for name in names:
            (place / name).symlink_to((here / name).resolve())
        if opened.pickle:
            source, weights = place / opened.pickle, place / adapter_config.WEIGHTS
            room.call(
                "bot.weights.pickled:convert", source, out=weights, header=opened.header, progress=progress
            )
    order = list(reversed(adapters)) if last else list(adapters)
    order.sort(key=lambda a: sidecars.VOCABULARY.isdisjoint(beside[a.adapter.files.name]))
    donors = [a.adapter.files for a in order if beside[a.adapter.files.name]]
    notes = []
    for donor in donors[:1]:
        for name in beside[donor.name]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(donor.read(name))
        for other in donors[1:]:
            odd = [n for n in beside[other.name] if (folder / n).is_file() and donor.read(n) != other.read(n)]
            if odd:
                notes.append(f"{odd[0]} is that of {donor.name}; {other.name} brings another one")
    originals = [json.loads((folder / str(n) / adapter_config.FILE).read_bytes()) for n in _numbers(adapters)]
    text = json.dumps(originals, indent=2, ensure_ascii=False) + "\n"
    (folder / ORIGINAL).write_text(text, encoding="utf-8")
    return notes


def _sidecars(model: Model) -> list[str]:
    return [s.name for s in sidecars.choose(model.files, base=model.files) if s.origin == "adapter"]


def _numbers(adapters: Sequence[Opened]) -> range:
    return range(1, len(adapters) + 1)


def _here(folder: Path) -> Model:
    """The folder as an adapter."""
    return Model(Pinned(kind="folder", location=str(folder), commit=""), LocalFiles(folder))


def _combined(
    request: MergeRequest,
    adapters: Sequence[Opened],
    plans: Sequence[Plan],
    *,
    base: Base,
    layout: Layout,
    folder: Path,
) -> Plan:
    """The plan for the one adapter that is made of all. A stack of plain LoRAs is their sum."""
    chosen = request.recipe if request.recipe and request.recipe.method != recipe.STACK else None
    how = chosen or Recipe(method="cat", weights=(1.0,) * len(adapters))
    combination.check_ranks(plans, how.method)
    rank = how.svd_rank or max(combination.largest_rank(plan.adapter_config) for plan in plans)
    config = room.call(
        "bot.work:combine",
        [(str(a.adapter.pinned), plan) for a, plan in zip(adapters, plans, strict=True)],
        how,
        paths=[folder / str(number) / adapter_config.WEIGHTS for number in _numbers(adapters)],
        rank=rank,
        folder=folder,
    )
    here = _here(folder)
    size = here.files.sizes()[adapter_config.WEIGHTS]
    header = read_header(here.files, adapter_config.WEIGHTS, size=size)
    for number in _numbers(adapters):
        shutil.rmtree(folder / str(number), ignore_errors=True)
    opened = Opened(adapter=here, header=header, config=config, renamed={})
    return plan_one(request, opened=opened, base=base, layout=layout)


def _stacked(
    request: MergeRequest,
    adapters: Sequence[Opened],
    plans: Sequence[Plan],
    *,
    base: Base,
    layout: Layout,
    folder: Path,
) -> Plan:
    """The plan for a chain of merges: what all stages together change, and the stages."""
    stages = tuple(
        replace(plan, adapter_file=f"{number}/{adapter_config.WEIGHTS}")
        for number, plan in enumerate(plans, 1)
    )
    bindings = combination.joined_bindings(stages, base=frozenset(layout.tensors))
    final = {b.tensor: b for b in bindings}
    added = {a.name: a for stage in stages for a in stage.added}
    beside, _ = chosen_sidecars(LocalFiles(folder), base=base.model.files)
    downloads = stages[0].estimate.download_bytes - adapters[0].fetched_bytes
    return replace(
        stages[-1],
        peft_type=" + ".join(stage.peft_type for stage in stages),
        way="layers",
        renamed={},
        bindings=bindings,
        added=tuple(_as_made(a, final) for a in added.values() if a.name not in layout.tensors),
        config_edits=(*combination.joined_edits(stages), *dtype.edits(base.config, dtype=request.dtype)),
        sidecars=beside,
        dtype=request.dtype,
        destination=request.destination,
        estimate=estimate(
            layout,
            bindings=bindings,
            added=[a for a in added.values() if a.name not in layout.tensors],
            dtype=request.dtype,
            adapter_bytes=sum(a.header.file_size for a in adapters),
            download_bytes=downloads,
        ),
        notes=(f"{counted(len(stages), 'adapter')} are merged one after the other, rounded once at the end",),
        stages=stages,
    )


def _as_made(added: AddedTensor, final: dict[str, Any]) -> AddedTensor:
    binding = final[added.name]
    return replace(added, shape=binding.shape, dtype=binding.dtype)


def _signed(
    request: MergeRequest,
    plan: Plan,
    adapters: Sequence[Opened],
    plans: Sequence[Plan],
    *,
    base: Base,
    notes: Sequence[str],
) -> Plan:
    """The plan with every adapter in it, and what each of their plans had to say."""
    first, *others = [a.adapter.pinned for a in adapters]
    told = [note for each in plans for note in each.notes]
    patches: list[Patch] = []
    for patch in (p for each in plans for p in each.patches):
        if patch not in patches:
            patches.append(patch)
    named = request.recipe.weights if request.recipe else ()
    idle = [f"{a.adapter.pinned} has the weight 0" for a, w in zip(adapters, named, strict=False) if w == 0]
    return replace(
        plan,
        key=key.job_key(first, base=base.model.pinned, request=request, further=others),
        adapter=first,
        further=tuple(others),
        recipe=request.recipe,
        patches=tuple(patches),
        notes=tuple(dict.fromkeys((*told, *plan.notes, *idle, *notes))),
    )
