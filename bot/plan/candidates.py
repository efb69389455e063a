"""Every base that somebody names for an adapter, each looked at: is it there, do its shapes fit? Chooses none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bot.diagnosis import Candidate
from bot.errors import InputError, MergeBotError, RefusedError
from bot.plan import card
from bot.plan.base_model import CONFIG, read_config
from bot.plan.fit import misfit
from bot.plan.local import open_folder
from bot.plan.reference import hidden, is_path, is_repo_id, parse
from bot.plan.rules.base import SPURIOUS_REVISIONS
from bot.plan.rules.evidence import Evidence
from bot.weights.files import Hub, Model
from bot.weights.layout import read_layout
from bot.weights.quantised.method import find

MOST = 8  # names that are looked at: a card may list any number


def candidates(
    adapter: Model, *, config: dict[str, Any], override: str | None, weights: Evidence | None, hub: Hub
) -> tuple[Candidate, ...]:
    """Who names which base, and what was found there: headers and small files are read, and nothing is raised."""
    found: list[Candidate] = []
    for named in list(_named(adapter, config=config, override=override))[:MOST]:
        if any(c.name == named.name and c.revision == named.revision for c in found):
            continue
        looked = _look(named, adapter=adapter, weights=weights, hub=hub)
        found.extend(looked)
    return tuple(found)


def _named(adapter: Model, *, config: dict[str, Any], override: str | None) -> Iterator[Candidate]:
    if override is not None:
        yield Candidate(named_by="--base", name=override)
        return
    named, revision = config.get("base_model_name_or_path"), config.get("revision")
    if isinstance(named, str) and named:
        asked = revision if isinstance(revision, str) and revision not in SPURIOUS_REVISIONS else None
        yield Candidate(named_by="adapter_config.json", name=named, revision=asked or None)
    for name in card.names(card.read(adapter.files)):
        if name != named:
            yield Candidate(named_by="the adapter's model card", name=name)


def _look(named: Candidate, *, adapter: Model, weights: Evidence | None, hub: Hub) -> Iterator[Candidate]:
    try:
        model, said = _open(named, adapter=adapter, hub=hub)
        if model is None:
            yield replace(named, note=said)
            return
        config = read_config(model.files)
        if find(config) is None:
            yield _checked(replace(named, note=said), model=model, weights=weights)
            return
        parents = [n for n in card.names(card.read(model.files)) if is_repo_id(n)]
        yield replace(named, commit=model.pinned.commit, note=_and(said, "quantised"))
    except MergeBotError as error:
        yield replace(named, note=error.sentence)
        return
    for parent in parents[:2]:
        below = Candidate(named_by=f"the model card of {model.files.name}", name=parent)
        yield from _parent(below, weights=weights, hub=hub)


def _parent(named: Candidate, *, weights: Evidence | None, hub: Hub) -> Iterator[Candidate]:
    try:
        model = hub.open(named.name)
        yield _checked(replace(named, note=_renamed(named.name, model)), model=model, weights=weights)
    except MergeBotError as error:
        yield replace(named, note=error.sentence)


def _open(named: Candidate, *, adapter: Model, hub: Hub) -> tuple[Model | None, str]:
    """The model, or None with the reason. A path is opened for the user and for a folder, never for a Hub adapter."""
    if named.named_by == "--base":
        reference = parse(named.name)
        if reference.folder is not None:
            return open_folder(reference.folder), ""
        return hub.open(
            str(reference.repo_id), revision=reference.revision, subfolder=reference.subfolder
        ), ""
    if adapter.pinned.kind == "folder" and _is_model(named.name):
        return open_folder(Path(named.name)), ""
    repo_id, cached = hidden(named.name) or (named.name, None)
    if is_path(repo_id) or not is_repo_id(repo_id):
        return None, "a path on the machine of whoever trained it"
    try:
        model = hub.open(repo_id, revision=named.revision or cached)
    except InputError as error:
        if error.code == "not-found":
            return None, "the Hub does not have it"
        raise
    speaks = f"speaks of {repo_id}" if repo_id != named.name else ""
    return model, _and(speaks, _renamed(repo_id, model))


def _is_model(name: str) -> bool:
    try:
        return (Path(name).expanduser() / CONFIG).is_file()
    except (OSError, RuntimeError, ValueError):  # no home of that name, a name with a null byte, one too long
        return False


def _renamed(name: str, model: Model) -> str:
    now = model.pinned.location
    return f"called {now} now" if model.pinned.kind == "hub" and now.casefold() != name.casefold() else ""


def _checked(named: Candidate, *, model: Model, weights: Evidence | None) -> Candidate:
    """With its commit, and whether its shapes fit."""
    pinned = replace(named, commit=model.pinned.commit)
    if weights is None or not weights.ranks:
        return pinned
    try:
        reason = misfit(weights, read_layout(model.files), name=model.files.name)
    except (InputError, RefusedError) as error:
        return replace(pinned, note=_and(named.note, error.sentence))
    return replace(pinned, fits=reason is None, note=_and(named.note, reason or ""))


def _and(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
