"""What a worker does in one go: merge and checks, from files to files. Knows no Hub, no token and no destination."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.plan.binding import scale_of
from bot.progress import Progress
from bot.records import Binding, Check, MergedModel, Plan, Report
from bot.request import MergeRequest, Recipe
from bot.secret_text import masked
from bot.weights import memory
from bot.weights.device import name_of
from bot.weights.layout import Layout

if TYPE_CHECKING:
    from bot.validate.found import Found


def make(
    plan: Plan,
    *,
    base: Layout,
    config: dict[str, Any],
    base_folder: Path,
    adapter_folder: Path,
    out: Path,
    request: MergeRequest,
    originals: dict[str, str],
    progress: Progress,
) -> tuple[MergedModel, Report | None]:
    """Merges into the existing folder `out` and checks it; the report is None when nothing is to be checked.

    `config` is the base's config.json; `originals` are files of the adapter that are copied, but for tokens in them, by
    their new names.
    Raises what merging raises, OSError as it comes from the disk. What the checks find wrong is in the report.
    """
    from bot.merge import run as merging  # noqa: PLC0415 - numpy
    from bot.merge import sidecars  # noqa: PLC0415
    from bot.validate.found import Found  # noqa: PLC0415
    from bot.validate.witness import looking_on  # noqa: PLC0415

    with looking_on(
        plan, base_folder=base_folder, base=base, adapter_folder=adapter_folder, out=out, request=request
    ) as witness:
        merged = merging.merge(
            plan,
            base_folder=base_folder,
            base=base,
            config=config,
            adapter_path=adapter_folder / plan.adapter_file,
            out=out,
            device=request.device,
            progress=progress,
            witness=witness,
            digest=request.validation != "none",
        )
    seen = replace(witness.found() if witness else Found(), digests=merged.digests, ours=True)
    sidecars.write_sidecars(
        plan, base_folder=base_folder, adapter_folder=adapter_folder, config=config, out=out
    )
    for name, original in originals.items():
        text = (adapter_folder / original).read_bytes().decode("utf-8", "surrogateescape")
        (out / name).write_bytes(masked(text).encode("utf-8", "surrogateescape"))
    if request.validation == "none":
        return _told(merged), None
    report = check(
        out,
        plan,
        base=base,
        config=config,
        base_folder=base_folder,
        adapter_folder=adapter_folder,
        request=request,
        progress=progress,
        seen=seen,
    )
    return _told(merged, device=report.device), report


def _told(merged: MergedModel, *, device: str = "cpu") -> MergedModel:
    """With what this process has needed for it, and for the checks."""
    used = merged.device if merged.device != "cpu" else device
    return replace(merged, peak_bytes=memory.peak(), gpu=name_of(used))


def check(
    folder: Path,
    plan: Plan,
    *,
    base: Layout,
    config: dict[str, Any],
    base_folder: Path,
    adapter_folder: Path,
    request: MergeRequest,
    progress: Progress,
    seen: Found | None = None,
) -> Report:
    """Checks a merged folder; `seen` is what was proven while it was written. What is wrong is in the report."""
    from bot.validate import run as validation  # noqa: PLC0415 - numpy

    sources: dict[str, Any] = {
        "base_folder": base_folder,
        "base": base,
        "config": config,
        "adapter_path": adapter_folder / plan.adapter_file,
    }
    subject = validation.Subject(
        merged=folder,
        plan=plan,
        base_folder=base_folder,
        base=base,
        adapter_folder=adapter_folder,
        request=request,
        progress=progress,
        peft=validation.Peft(
            exact=partial(exact, plan, **sources), layers=partial(layers, plan, merged=folder, **sources)
        ),
    )
    return validation.validate(subject, seen=seen)


def layers(plan: Plan, **sources: Any) -> Iterable[Any]:
    """The adapter's live layers; imports what they need."""
    from bot.merge.live import live_layers  # noqa: PLC0415 - torch, transformers and PEFT

    return live_layers(plan, **sources)


def load(
    place: Path | str, plan: Plan, *, name: str, merged: Path, model_class: str, cache: Path | None = None
) -> Check:
    """The check `name`: what transformers loads from a folder, or by an id at a commit out of the `cache`."""
    from bot.validate.published import check_published  # noqa: PLC0415 - torch, transformers and PEFT

    return check_published(place, name=name, plan=plan, merged=merged, model_class=model_class, cache=cache)


def exact(plan: Plan, **sources: Any) -> Callable[[Binding], Any]:
    """Gives a binding's tensor in float64, once for each; imports what that needs when it is first asked to."""
    made: list[Callable[[Binding], Any]] = []

    def value(binding: Binding) -> Any:
        if not made:
            from bot.merge.exact import exact_merge  # noqa: PLC0415 - torch, transformers and PEFT

            made.append(exact_merge(plan, **sources))
        return made[0](binding)

    return value


def combine(
    plans: Sequence[tuple[str, Plan]], recipe: Recipe, *, paths: Sequence[Path], rank: int, folder: Path
) -> dict[str, Any]:
    """Makes one adapter of several in `folder`; the answer is its config. `plans`: with what to call the adapters.

    Raises RefusedError for one that is not finite or without effect, and where the method does not apply.
    """
    from bot.merge import combine as combining  # noqa: PLC0415 - torch and PEFT

    ingredients = [
        combining.load_ingredient(name, plan, path=path, scale=partial(scale_of, config=plan.adapter_config))
        for (name, plan), path in zip(plans, paths, strict=True)
    ]
    return combining.write(ingredients, recipe, rank=rank, folder=folder)
