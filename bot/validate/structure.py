"""The merged folder as files and headers: what must be there, what must not, and in which shapes. No tensor is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bot.errors import MergeBotError
from bot.records import Check, Plan
from bot.validate.dequantised import check_dequantised
from bot.validate.elsewhere import WRAPPER, other_forms, other_names, under
from bot.validate.expected import expected_tensors
from bot.validate.sidecars import check_sidecars
from bot.validate.ties import check_ties
from bot.weights.files import LocalFiles
from bot.weights.layout import INDEX, SINGLE, Layout, read_layout
from bot.wording import counted, few, size

ADAPTER_FILE = re.compile(
    r"adapter_config\.json|adapter_model([-.].*)?\.(safetensors|bin|pt|pth)(\.index\.json)?"
)
UNMERGED = re.compile(r"\.base_layer\.|\.lora_[A-Z]|\.lora_embedding_|\.lora_magnitude_vector")
PICKLE = re.compile(r"pytorch_model.*\.bin")


def check_structure(
    merged: Path,
    *,
    plan: Plan,
    base: Layout,
    base_folder: Path | None = None,
    adapter_folder: Path | None = None,
) -> list[Check]:
    """Checks `files`, `index`, `keys`, `shapes`, `dtypes`, `ties`, `leftovers` and those of `check_sidecars`.

    Without the source folders, files are not compared with their originals.
    """
    try:
        raw = read_layout(LocalFiles(merged))
    except MergeBotError as error:
        name = "index" if INDEX in error.sentence else "files"
        return [
            Check(name=name, verdict="failed", figure="", detail=error.sentence),
            *_leftovers(merged, None),
        ]
    renamed = other_names(raw, plan=plan, base=base, base_folder=base_folder)
    layout = under(renamed, raw)
    figure = f"{counted(len(layout.shards), 'file')}, {size(layout.total_bytes)}"
    files = Check(name="files", verdict="passed", figure=figure, detail="Every header parses.")
    ties = check_ties(merged, plan=plan, layout=layout, base=base, base_folder=base_folder)
    forms = other_forms(layout, plan=plan, base=base, base_folder=base_folder)
    keys = _keys(layout, plan=plan, base=base, allowed=ties.allowed, renamed=renamed, forms=forms)
    tensors = [keys, *_headers(layout, plan=plan, base=base), *([ties.check] if ties.check else [])]
    sidecars = check_sidecars(
        merged, plan=plan, layout=raw, base=base, base_folder=base_folder, adapter_folder=adapter_folder
    )
    own = [check_dequantised(merged, plan=plan, layout=layout)] if plan.dequantized else []
    return [files, _index(merged, raw), *tensors, *_leftovers(merged, raw), *sidecars, *own]


def verdict(name: str, problems: list[str], *, figure: str = "", good: str) -> Check:
    """A check that passed when there are no problems."""
    more = f" And {len(problems) - 5} more." if len(problems) > 5 else ""
    detail = " ".join(problems[:5]) + more if problems else good
    return Check(name=name, verdict="failed" if problems else "passed", figure=figure, detail=detail)


def _index(merged: Path, layout: Layout) -> Check:
    """The index: that it agrees with the shards is seen by `read_layout`; its total_size and its need are seen here."""
    problems = []
    if layout.index is None and (merged / INDEX).exists():
        problems.append(f"{INDEX} stands beside {SINGLE}, which loaders prefer.")
    if layout.index is None and len(layout.shards) > 1:
        problems.append(f"{len(layout.shards)} shards have no {INDEX}.")
    if layout.index is None:
        return verdict("index", problems, figure="no index", good="One file needs none.")
    metadata = json.loads(layout.index).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if total != layout.total_bytes:
        problems.append(f"total_size is {total}, the tensors have {layout.total_bytes} bytes.")
    figure = f"{counted(len(layout.tensors), 'tensor')}, {size(layout.total_bytes)}"
    return verdict("index", problems, figure=figure, good="The index agrees with the shards.")


def _keys(
    layout: Layout,
    *,
    plan: Plan,
    base: Layout,
    allowed: frozenset[str],
    renamed: dict[str, str],
    forms: dict[str, list[str]],
) -> Check:
    """The tensors' names: those of the base and the planned ones, no other.

    `allowed` are others that say nothing new. `renamed`: names in the files → names in the layout.
    `forms`: names in the layout → those of the base that transformers makes the same of.
    """
    wanted, there = set(expected_tensors(plan, base=base)), set(layout.tensors) - allowed
    lost, extra = sorted(wanted - there), sorted(there - wanted)
    problems = []
    if any(UNMERGED.search(name) for name in extra):
        problems.append("These are the tensors of an unmerged PEFT model: it was saved without merging.")
    elif wrapped := [n for n in extra if n.startswith(WRAPPER) and n.removeprefix(WRAPPER) in wanted]:
        problems.append(f"{counted(len(wrapped), 'name')} begin with {WRAPPER}, which no loader takes off.")
    if forms:
        within = sorted(name for names in forms.values() for name in names)
        problems.append(_other_form(within, min(forms)))
        lost, extra = sorted({*lost} - {*within}), sorted({*extra} - forms.keys())
    if lost:
        problems.append(f"Missing: {few(lost)}.")
    if extra:
        problems.append(f"Unexpected: {few(extra)}.")
    figure = f"{counted(len(layout.tensors), 'tensor')}, {len(plan.added):,} added"
    good = "The base's tensors and the planned ones, no other."
    if renamed:
        old, new = min(renamed.items())
        good += (
            f" {counted(len(renamed), 'tensor')} under other names that load as the same, {old} for {new}."
        )
    if allowed:
        good += f" Written out beside what they share: {few(sorted(allowed))}."
    return verdict("keys", problems, figure=figure, good=good)


def _other_form(names: list[str], within: str) -> str:
    """What the base stores one by one, and the merged model together."""
    return (
        f"{counted(len(names), 'tensor')} of the base are stored in another form: {names[0]} within {within}."
        " transformers loads both alike; save it in the base's form (save_original_format) to have them compared."
    )


def _headers(layout: Layout, *, plan: Plan, base: Layout) -> list[Check]:
    """Checks `shapes` and `dtypes`."""
    expected = expected_tensors(plan, base=base)
    pairs = [(layout.tensors[name], wanted) for name, wanted in expected.items() if name in layout.tensors]
    shapes = [
        f"{spec.name} is {list(spec.shape)} instead of {list(wanted.shape)}."
        for spec, wanted in pairs
        if spec.shape != wanted.shape
    ]
    changed: dict[tuple[str, str], list[str]] = {}
    for spec, wanted in pairs:
        if spec.dtype != wanted.dtype:
            changed.setdefault((spec.dtype, wanted.dtype), []).append(spec.name)
    dtypes = [
        f"{_who(names, total=len(pairs))} {'is' if len(names) == 1 else 'are'} {new} instead of {old}."
        for (new, old), names in changed.items()
    ]
    count = counted(len(layout.tensors), "tensor")
    kinds = f"{count}: {', '.join(sorted({spec.dtype for spec in layout.tensors.values()}))}"
    return [
        verdict("shapes", shapes, figure=count, good="Every tensor has its planned shape."),
        verdict("dtypes", dtypes, figure=kinds, good="Every tensor has its planned dtype."),
    ]


def _who(names: list[str], *, total: int) -> str:
    """The tensors that one sentence is about."""
    if len(names) == 1:
        return names[0]
    if len(names) == total:
        return f"All {total:,} tensors"
    return f"{len(names):,} of {total:,} tensors ({few(sorted(names), most=3)})"


def _leftovers(merged: Path, layout: Layout | None) -> list[Check]:
    """Files that make a loader take something else than the merged weights."""
    known = {shard.file for shard in layout.shards} if layout else set()
    problems = []
    names = sorted(LocalFiles(merged).sizes() if merged.is_dir() else ())
    for name in names:
        if ADAPTER_FILE.fullmatch(name):
            problems.append(f"{name} would apply the adapter a second time.")
        elif layout and PICKLE.fullmatch(name):
            problems.append(f"{name} holds other weights.")
        elif layout and name.endswith(".safetensors") and name not in known:
            problems.append(f"{name} belongs to no index.")
    good = "No adapter files and no other weights beside the merged ones."
    return [verdict("leftovers", problems, figure=counted(len(names), "file"), good=good)]
