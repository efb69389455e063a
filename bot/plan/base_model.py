"""Finds the base model of an adapter.

In order: what the user says; what adapter_config.json says; what the adapter's card says; and, for a quantised
repository, the full-precision model that it was made from. Says which one it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.errors import InputError, RefusedError
from bot.plan import card
from bot.plan.local import open_folder
from bot.plan.reference import hidden, is_path, is_repo_id, parse
from bot.plan.rules.base import SPURIOUS_REVISIONS
from bot.plan.rules.rule import short
from bot.request import QuantizedBase
from bot.weights.files import Files, Hub, Model, is_unicode, read_small
from bot.weights.quantised.method import Method, can_dequantize, find

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
MAX_PARENTS = 3
MAX_LAYERS = 10_000  # the deepest models have some hundred; transformers makes an object of each before it reads a file
OTHER_RELATIONS = frozenset(
    {"finetune", "adapter", "merge"}
)  # what a card may call its base, beside "quantized"
ALIKE = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size")
DTYPE_KEYS = ("dtype", "torch_dtype")
LAYER_KEYS = (
    "hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
)  # ends of them
MADE_FROM = "then the quantised repository's own base"  # of `found_by`


@dataclass(frozen=True, kw_only=True)
class Base:
    """The base that was found, its config.json, who named it, and what there is to say about it."""

    model: Model
    config: dict[str, Any]
    found_by: str
    notes: tuple[str, ...] = ()


def resolve(
    adapter: Model,
    *,
    adapter_config: dict[str, Any],
    override: str | None,
    revision: str | None,
    hub: Hub,
    quantized: QuantizedBase = "original",
) -> Base:
    """The base at a pinned commit.

    `override` and `revision` are the user's own words; so is `quantized`, which says whether a quantised repository
    stands for the model that it was made from or is the base itself. Raises InputError or RefusedError with advice
    when no base can be named, and what the Hub raises when it cannot be opened.
    """
    notes: list[str] = []
    if override is not None:
        model, found_by = _open(override, revision=revision, hub=hub), "--base"
    else:
        model, found_by = _from_adapter(
            adapter, adapter_config=adapter_config, revision=revision, hub=hub, notes=notes
        )
    if quantized == "dequantize":
        return Base(model=model, config=read_config(model.files), found_by=found_by, notes=tuple(notes))
    return _full_precision(model, found_by=found_by, hub=hub, notes=notes)


def _open(text: str, *, revision: str | None, hub: Hub) -> Model:
    reference = parse(text)
    if reference.folder is not None:
        return open_folder(reference.folder)
    return hub.open(
        str(reference.repo_id), revision=revision or reference.revision, subfolder=reference.subfolder
    )


def _from_adapter(
    adapter: Model, *, adapter_config: dict[str, Any], revision: str | None, hub: Hub, notes: list[str]
) -> tuple[Model, str]:
    named = adapter_config.get("base_model_name_or_path")
    if isinstance(named, str) and named:
        folder = _own_folder(named, adapter=adapter)
        if folder is not None:
            return open_folder(folder), "adapter_config.json"
        repo_id, cached = hidden(named) or (named, None)
        if repo_id != named:
            notes.append(f"adapter_config.json names {named!r}, which speaks of {repo_id} on the Hub")
        if not is_path(repo_id) and is_repo_id(repo_id):
            asked = revision or cached or _revision(adapter_config, notes=notes)
            try:
                return _follow(hub, repo_id, revision=asked, notes=notes), "adapter_config.json"
            except InputError as error:
                if error.code == "revision-not-found" and revision is None:
                    raise _no_revision(repo_id, str(asked)) from error
                if error.code not in ("not-found", "bad-name"):
                    raise
                notes.append(f"adapter_config.json names {repo_id}, which the Hub does not have")
        else:
            notes.append(f"adapter_config.json names {named!r}, a path on the machine of whoever trained it")
    found = card.base_models(card.read(adapter.files), name=adapter.files.name)
    if found and is_repo_id(found) and found != named:
        return _follow(hub, found, revision=revision, notes=notes), "the adapter's model card"
    raise _unnamed(named, adapter=adapter)


def _follow(hub: Hub, repo_id: str, *, revision: str | None, notes: list[str]) -> Model:
    """The repository, under whatever name it has now."""
    model = hub.open(repo_id, revision=revision)
    if model.pinned.location.casefold() != repo_id.casefold():
        notes.append(f"{repo_id} is called {model.pinned.location} on the Hub now")
    return model


def _no_revision(repo_id: str, revision: str) -> InputError:
    return InputError(
        f"adapter_config.json asks for the revision {revision!r} of {repo_id}, which has none of that name.",
        advice="Say which one it was trained on with --base-revision; `--base-revision main` takes the newest.",
        code="revision-not-found",
    )


def _own_folder(named: str, *, adapter: Model) -> Path | None:
    """The folder that a local adapter names. Never for an adapter from the Hub: it would read this host's files."""
    if adapter.pinned.kind != "folder":
        return None
    try:
        folder = Path(named).expanduser()
        return folder if (folder / CONFIG).is_file() else None
    except (OSError, RuntimeError, ValueError):  # no home of that name, a null byte in it, far too long
        return None


def _revision(adapter_config: dict[str, Any], *, notes: list[str]) -> str | None:
    revision = adapter_config.get("revision")
    if not isinstance(revision, str) or not revision:
        return None
    if revision in SPURIOUS_REVISIONS:
        notes.append(
            f"the revision {revision!r} in adapter_config.json is none of the base: its main branch is used"
        )
        return None
    return revision


def _full_precision(model: Model, *, found_by: str, hub: Hub, notes: list[str]) -> Base:
    """The base itself, or for a quantised repository the model that it was made from."""
    quantised: dict[str, Any] | None = None
    for _ in range(MAX_PARENTS):
        config = read_config(model.files)
        if quantised is not None:
            _check_alike(config, quantised=quantised, name=model.files.name)
        method = find(config)
        if method is None:
            return Base(model=model, config=config, found_by=found_by, notes=tuple(notes))
        quantised = config
        parent = _parent(model.files, config=config)
        if parent is None:
            raise _orphan(model.files, method, "does not name the model that it was made from")
        notes.append(
            f"{model.files.name} is quantised ({method.title}): the merge goes into {parent}, which it was made from"
        )
        model, found_by = (
            _open_parent(parent, files=model.files, method=method, hub=hub),
            f"{found_by}, {MADE_FROM}",
        )
    raise RefusedError(
        f"The base {model.files.name} was quantised several times over.",
        advice="Name the full-precision model with --base.",
        code="base-quantized",
    )


def _open_parent(parent: str, *, files: Files, method: Method, hub: Hub) -> Model:
    try:
        return hub.open(parent)
    except InputError as error:
        if error.code != "not-found":
            raise
        raise _orphan(files, method, f"was made from {parent}, which the Hub does not have") from error


def _parent(files: Files, *, config: dict[str, Any]) -> str | None:
    text = card.read(files)
    if str(card.metadata(text).get("base_model_relation")) in OTHER_RELATIONS:
        return None
    for name in (card.base_models(text, name=files.name), config.get("_name_or_path")):
        if isinstance(name, str) and "/" in name and is_repo_id(name) and name.lower() != files.name.lower():
            return name
    return None


def _check_alike(config: dict[str, Any], *, quantised: dict[str, Any], name: str) -> None:
    """A quantised repository's card may name another ancestor: sizes that differ show it before any download."""
    for key in ALIKE:
        mine, theirs = quantised.get(key), config.get(key)
        if mine is not None and theirs is not None and mine != theirs:
            raise RefusedError(
                f"{name} has {key} {theirs!r} and the quantised base that names it {mine!r}: it was not made from it.",
                advice="Name the full-precision model with --base.",
                code="base-quantized",
            )


def _orphan(files: Files, method: Method, what: str) -> RefusedError:
    also = (
        ", or merge into its dequantised weights with --quantized-base dequantize"
        if can_dequantize(method)
        else ""
    )
    return RefusedError(
        f"The base {files.name} is quantised ({method.title}) and {what}.",
        advice=f"Name the full-precision model with --base{also}.",
        code="base-quantized",
    )


def read_config(files: Files) -> dict[str, Any]:
    """The base's config.json. Raises InputError when it is missing or broken, RefusedError beside an adapter."""
    names = files.sizes()
    if ADAPTER_CONFIG in names:  # transformers would apply that adapter at every load of the base
        raise RefusedError(
            f"The base {files.name} is itself an adapter, or has one beside its weights.",
            advice="Merge that one first, and name the result with --base.",
            code="base-is-adapter",
        )
    if CONFIG not in names:
        raise InputError(
            f"{files.name} has no {CONFIG}, so it is no transformers model.",
            advice="Name the base model with --base.",
            code="base-config",
        )
    try:
        config = json.loads(read_small(files, CONFIG))
    except (ValueError, RecursionError) as error:
        config = error
    if (wrong := _wrong(config)) or not isinstance(config, dict):
        raise InputError(
            f"The {CONFIG} of {files.name} {wrong}.",
            advice="Download or save the base again, or name another one with --base.",
            code="base-config",
        )
    return config


def _wrong(config: Any) -> str:
    """What transformers would stumble over later, or not come to an end with; empty when there is nothing."""
    if not isinstance(config, dict):
        return "is no JSON object"
    if not is_unicode(config):
        return "holds half a character (a lone surrogate)"
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return f"says architectures = {short(classes)} where a list of names belongs"
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in part.items():
            if key in DTYPE_KEYS and not isinstance(value, str | dict | None):
                return f"says {key} = {short(value)} where the name of a dtype belongs"
            if key.endswith(LAYER_KEYS) and isinstance(value, int) and value > MAX_LAYERS:
                return f"says {key} = {short(value)}, and no model has more than {MAX_LAYERS:,} layers"
    return ""


def _unnamed(named: Any, *, adapter: Model) -> RefusedError:
    what = f"names {named!r}, which is no repository on the Hub" if named else "names no base model"
    # What the token may not read is as good as not there to the Hub.
    private = "; if it is private, set HF_TOKEN to a token that may read it"
    or_private, may_be = (", or a private one", private) if is_repo_id(str(named)) else ("", "")
    return RefusedError(
        f"The adapter {adapter.files.name} {what}{or_private}, and its model card names none either.",
        advice=f"Name the base that it was trained on with --base owner/name, or --base ./folder{may_be}.",
        code="base-unknown",
    )
