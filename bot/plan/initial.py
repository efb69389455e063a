"""Adapters whose start changed the base: what makes them exact is found, or they are refused.

PiSSA, CorDA, OLoRA and LoRA-GA start from A₀, B₀ and train on the residual W - s·B₀A₀; the file holds A and B alone.
With the initial adapter at hand the merged weight is W + s·(BA - B₀A₀): a plain LoRA of twice the rank, which is what
PEFT itself makes of the two (`path_initial_model_for_weight_conversion`). On the residual as the base it is plain LoRA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bot.errors import RefusedError
from bot.plan import adapter_config, adapter_keys, patches
from bot.plan.local import open_folder
from bot.plan.reference import is_path
from bot.records import Patch
from bot.weights.files import Files, Hub, Model
from bot.weights.header import Header, TensorSpec
from bot.weights.layout import read_header

INIT = "init_lora_weights"
STARTS = ("pissa", "corda", "olora", "lora_ga")  # where the residual is W - s·B₀A₀
REPEATED = (
    "pissa",
    "olora",
)  # exact decompositions of the base: done again at the merge, see bot.merge.reinit
RESIDUAL = ("pissa_niter", "corda", "lora_ga", "loftq")  # where a residual base serves, too
FACTOR = re.compile(r".*\.lora_(A|B)\.weight|.*\.lora_embedding_(A|B)")
NAMES = re.compile(r"(.*[_-])?(init|initial)([_-].*)?", re.IGNORECASE)
SAME = (
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
)


@dataclass(frozen=True, kw_only=True)
class Initial:
    """The adapter as it was before the first step. `renamed`: as in `bot.records.Plan`."""

    model: Model
    weights: str
    header: Header
    renamed: dict[str, str]


def places(files: Files) -> list[str]:
    """Subfolders of an adapter's that look like its initial state: `pissa_init`, `init`, `initial_adapter`, …"""
    ending = f"/{adapter_config.FILE}"
    found = [name.removesuffix(ending) for name in files.sizes() if name.endswith(ending)]
    return sorted(place for place in found if NAMES.fullmatch(place.rpartition("/")[2]))


def inside(adapter: Model, *, hub: Hub) -> Model | None:
    """The initial adapter in a subfolder of the adapter's own folder or repository, if there is one.

    Raises RefusedError when there are several.
    """
    at, home = adapter.pinned, adapter
    found = places(home.files)
    if not found and at.kind == "hub" and at.subfolder:  # a checkpoint: its start may lie beside it
        home = hub.open(at.location, revision=at.commit)
        found = places(home.files)
    if len(found) > 1:
        raise RefusedError(
            f"{adapter.files.name} has several adapters that may be its initial state: {', '.join(found)}.",
            advice="Name the right one with --initial-adapter.",
            code="initial-adapter-ambiguous",
        )
    if not found:
        return None
    if at.kind == "folder":
        return open_folder(Path(at.location) / found[0])
    subfolder = "/".join(part for part in (home.pinned.subfolder, found[0]) if part)
    return hub.open(at.location, revision=at.commit, subfolder=subfolder)


def needs(config: Mapping[str, Any]) -> bool:
    """Whether an initial adapter is looked for: its start changed the base in a way that cannot be done again."""
    init = config.get(INIT)
    return isinstance(init, str) and init.startswith(STARTS) and init not in REPEATED


def read(model: Model, *, config: Mapping[str, Any], tensors: Mapping[str, TensorSpec]) -> Initial:
    """Opens the initial adapter. `config` and `tensors` are the trained one's, patched and by canonical name.

    Raises RefusedError unless the two are of one shape, and what reading an adapter raises.
    """
    if str(config.get(INIT)).startswith("loftq"):
        raise RefusedError(
            "The adapter was started by LoftQ, whose base is a quantised matrix and not W - s·B₀A₀: an initial adapter"
            " does not make it exact.",
            advice="Name the residual base that was trained on with --base, without --initial-adapter.",
            code="feature-unsupported",
        )
    _, original = adapter_config.read(model.files)
    theirs, _ = patches.apply(original)
    weights = adapter_config.weights_file(model.files)
    header = read_header(model.files, weights, size=model.files.sizes()[weights])
    adapter_keys.check_dtypes(header.tensors)
    renamed = adapter_keys.renames(t.name for t in header.tensors)
    shapes = {renamed.get(t.name, t.name): t.shape for t in header.tensors}
    mine = {name: spec.shape for name, spec in tensors.items()}
    if odd := [key for key in SAME if (config.get(key) or None) != (theirs.get(key) or None)]:
        raise _other(model, f"its {odd[0]} is {theirs.get(odd[0])!r} and not {config.get(odd[0])!r}")
    if odd := sorted(
        n for n in shapes.keys() | mine.keys() if FACTOR.fullmatch(n) and shapes.get(n) != mine.get(n)
    ):
        raise _other(model, f"{odd[0]} has another shape there, or is in one of them only")
    return Initial(model=model, weights=weights, header=header, renamed=renamed)


def stacked_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Patch, ...]]:
    """The config of the plain LoRA of twice the rank, and what was patched for it. The scale stays what it was."""
    if not str(config.get("peft_type")) == "LORA" or config.get("target_parameters"):
        raise RefusedError(
            "An initial adapter is subtracted from LoRA on modules, and this adapter is something else.",
            advice="Convert the adapter with PEFT's path_initial_model_for_weight_conversion where it was trained.",
            code="feature-unsupported",
        )
    alpha = math.sqrt(2) if config.get("use_rslora") else 2
    after = {
        INIT: True,
        "r": config.get("r", 8) * 2,
        "lora_alpha": config.get("lora_alpha", 8) * alpha,
        "rank_pattern": {k: v * 2 for k, v in (config.get("rank_pattern") or {}).items()},
        "alpha_pattern": {k: v * alpha for k, v in (config.get("alpha_pattern") or {}).items()},
    }
    reason = (
        "A and B are stacked with the initial adapter's, which is subtracted: twice the rank, the same scale"
    )
    return {**config, **after}, tuple(
        Patch(rule="initial-adapter", key=key, before=config.get(key), after=value, reason=reason)
        for key, value in after.items()
        if (config.get(key) or None) != (value or None)
    )


def stacked(tensors: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The headers' entries after stacking: A has twice the rows, B twice the columns. Offsets say nothing any more."""
    return {name: replace(spec, shape=_doubled(name, spec.shape)) for name, spec in tensors.items()}


def _doubled(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    match = FACTOR.fullmatch(name)
    if match is None or len(shape) < 2:
        return shape
    if "A" in match.groups():
        return (shape[0] * 2, *shape[1:])
    return (shape[0], shape[1] * 2, *shape[2:])


def residual_config(config: Mapping[str, Any], *, base: str) -> tuple[dict[str, Any], tuple[Patch, ...]]:
    """The config of the plain LoRA that the adapter is on its residual base, and what was patched for it."""
    reason = f"{base} is taken as the residual base, as told by --base, so the start is not done again"
    return {**config, INIT: True}, (
        Patch(rule="residual-base", key=INIT, before=config[INIT], after=True, reason=reason),
    )


def is_another_base(override: str | None, *, config: Mapping[str, Any]) -> bool:
    """Whether --base names something else than the adapter's config does, for a start that needs its residual."""
    init, named = config.get(INIT), config.get("base_model_name_or_path")
    if override is None or not isinstance(init, str) or not init.startswith(RESIDUAL):
        return False
    if not isinstance(named, str) or not named:
        return True
    if is_path(override) or is_path(named) or Path(override).is_dir():
        return Path(override).expanduser().resolve() != Path(named).expanduser().resolve()
    return override.partition("@")[0].lower() != named.lower()


def _other(model: Model, why: str) -> RefusedError:
    return RefusedError(
        f"{model.files.name} is not the initial state of this adapter: {why}.",
        advice="Name the adapter that was saved before the first step with --initial-adapter.",
        code="initial-adapter-differs",
    )
