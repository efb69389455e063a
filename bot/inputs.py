"""Which files went into a merge, each with its SHA-256: the Hub's word for large ones, small ones are read.

A large local file is not: its digest would take as long as the merge. Its folder's fingerprint covers both its ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bot.opening import local
from bot.plan import adapter_config
from bot.plan.base_model import CONFIG
from bot.plan.local import WHOLE
from bot.prepare import Prepared
from bot.progress import Silent
from bot.provenance import InputFile, Role
from bot.weights.files import Hub, Model
from bot.weights.layout import INDEX, PICKLE_INDEX


def inputs(prepared: Prepared, *, hub: Hub) -> tuple[InputFile, ...]:
    """Every file that goes into the merge, once all of them are here. Raises OSError as it comes from the disk."""
    found: list[InputFile] = []
    for role, model, names in _sources(prepared):
        found += _files(role, model, names=names, hub=hub)
    return tuple(found)


def _sources(prepared: Prepared) -> Iterator[tuple[Role, Model, list[str]]]:
    beside = {o: [s.name for s in prepared.plan.sidecars if s.origin == o] for o in ("adapter", "base")}
    for model in prepared.further or (prepared.adapter,):
        there = model.files.sizes()
        weights = adapter_config.WEIGHTS if adapter_config.WEIGHTS in there else adapter_config.PICKLE
        yield "adapter", model, [n for n in (adapter_config.FILE, weights, *beside["adapter"]) if n in there]
    found = prepared.found
    index = PICKLE_INDEX if found.pickles else INDEX
    shards = [found.pickles.get(s.file, s.file) for s in found.stored.shards]
    there = prepared.base.files.sizes()
    several = [index] if index in there and (found.pickles or found.stored.index is not None) else []
    yield "base", prepared.base, [*dict.fromkeys((CONFIG, *several, *shards, *beside["base"]))]
    if prepared.opened.initial is not None:
        yield "initial-adapter", prepared.opened.initial.model, [adapter_config.WEIGHTS]


def _files(role: Role, model: Model, *, names: list[str], hub: Hub) -> Iterator[InputFile]:
    sizes, known = model.files.sizes(), model.files.digests()
    small = [name for name in names if name not in known and sizes[name] <= WHOLE]
    folder = local(model, names=small, hub=hub, progress=Silent()) if small else Path()
    for name in names:
        file = InputFile(role=role, source=model.pinned, name=name, size=sizes[name])
        yield _digested(file, known.get(name), folder if name in small else None)


def _digested(file: InputFile, known: str | None, folder: Path | None) -> InputFile:
    if known is not None:
        return replace(file, sha256=known, told_by="hub")
    return file if folder is None else replace(file, sha256=digest(folder / file.name), told_by="read")


def digest(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError as it comes from the disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
