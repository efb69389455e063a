"""The merged folder as files and headers: what must be there, what must not, and in which shapes. No tensor is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bot.errors import MergeBotError
from bot.records import Check, Plan
from bot.validate.dequantised import check_dequantised
from bot.validate.expected import expected_tensors
from bot.validate.sidecars import check_sidecars
from bot.weights.files import LocalFiles
from bot.weights.layout import INDEX, SINGLE, Layout, read_layout
from bot.wording import counted, few, size

ADAPTER_FILE = re.compile(
    r"adapter_config\.json|adapter_model([-.].*)?\.(safetensors|bin|pt|pth)(\.index\.json)?"
)
PICKLE = re.compile(r"pytorch_model.*\.bin")


def check_structure(
    merged: Path,
    *,
    plan: Plan,
    base: Layout,
    base_folder: Path | None = None,
    adapter_folder: Path | None = None,
) -> list[Check]:
    """Checks `files`, `index`, `keys`, `shapes`, `dtypes`, `leftovers` and those of `check_sidecars`.

    Without the source folders, files are not compared with their originals.
    """
    try:
        layout = read_layout(LocalFiles(merged))
    except MergeBotError as error:
        name = "index" if INDEX in error.sentence else "files"
        return [
            Check(name=name, verdict="failed", figure="", detail=error.sentence),
            *_leftovers(merged, None),
        ]
    figure = f"{counted(len(layout.shards), 'file')}, {size(layout.total_bytes)}"
    files = Check(name="files", verdict="passed", figure=figure, detail="Every header parses.")
    tensors = [_keys(layout, plan=plan, base=base), *_headers(layout, plan=plan, base=base)]
    sidecars = check_sidecars(
        merged, plan=plan, layout=layout, base=base, base_folder=base_folder, adapter_folder=adapter_folder
    )
    own = [check_dequantised(merged, plan=plan, layout=layout)] if plan.dequantized else []
    return [files, _index(merged, layout), *tensors, *_leftovers(merged, layout), *sidecars, *own]


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


def _keys(layout: Layout, *, plan: Plan, base: Layout) -> Check:
    """The tensors' names: those of the base and the planned ones, no other."""
    wanted, there = set(expected_tensors(plan, base=base)), set(layout.tensors)
    problems = []
    if lost := sorted(wanted - there):
        problems.append(f"Missing: {few(lost)}.")
    if extra := sorted(there - wanted):
        problems.append(f"Unexpected: {few(extra)}.")
    figure = f"{counted(len(there), 'tensor')}, {len(plan.added):,} added"
    return verdict("keys", problems, figure=figure, good="The base's tensors and the planned ones, no other.")


def _headers(layout: Layout, *, plan: Plan, base: Layout) -> list[Check]:
    shapes, dtypes = [], []
    for name, expected in expected_tensors(plan, base=base).items():
        spec = layout.tensors.get(name)
        if spec and spec.shape != expected.shape:
            shapes.append(f"{name} is {list(spec.shape)} instead of {list(expected.shape)}.")
        if spec and spec.dtype != expected.dtype:
            dtypes.append(f"{name} is {spec.dtype} instead of {expected.dtype}.")
    count = counted(len(layout.tensors), "tensor")
    kinds = f"{count}: {', '.join(sorted({spec.dtype for spec in layout.tensors.values()}))}"
    return [
        verdict("shapes", shapes, figure=count, good="Every tensor has its planned shape."),
        verdict("dtypes", dtypes, figure=kinds, good="Every tensor has its planned dtype."),
    ]


def _leftovers(merged: Path, layout: Layout | None) -> list[Check]:
    """Files that make a loader take something else than the merged weights."""
    known = {shard.file for shard in layout.shards} if layout else set()
    problems = []
    names = sorted(LocalFiles(merged).sizes() if merged.is_dir() else ())
    for name in names:
        if ADAPTER_FILE.fullmatch(name):
            problems.append(f"{name} would apply the adapter a second time.")
        elif PICKLE.fullmatch(name):
            problems.append(f"{name} holds other weights.")
        elif layout and name.endswith(".safetensors") and name not in known:
            problems.append(f"{name} belongs to no index.")
    good = "No adapter files and no other weights beside the merged ones."
    return [verdict("leftovers", problems, figure=counted(len(names), "file"), good=good)]
