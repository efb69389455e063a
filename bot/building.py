"""Merge and checks as one step: what is written is proven on the way, and what has not passed is never finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.errors import ValidationError
from bot.plan import card
from bot.prepare import Prepared
from bot.progress import Progress
from bot.publish import model_card
from bot.publish.result import CARD_FILE, PLAN_FILE, REPORT_FILE, write, write_record
from bot.records import Binding, MergedModel, Report
from bot.request import MergeRequest
from bot.several import ORIGINAL
from bot.sources import Sources

if TYPE_CHECKING:
    from bot.validate.found import Found


def build(
    prepared: Prepared, sources: Sources, *, out: Path, request: MergeRequest, progress: Progress
) -> tuple[MergedModel, Report | None]:
    """Merges into `out`, checks it, and writes down how it came about. Raises ValidationError for a failed check."""
    from bot.merge import run as merging  # noqa: PLC0415 - torch
    from bot.merge import sidecars  # noqa: PLC0415
    from bot.validate.found import Found  # noqa: PLC0415 - numpy
    from bot.validate.witness import looking_on  # noqa: PLC0415

    plan = prepared.plan
    adapter_path = sources.adapter / plan.adapter_file
    with looking_on(
        plan,
        base_folder=sources.base,
        base=prepared.layout,
        adapter_folder=sources.adapter,
        out=out,
        request=request,
    ) as witness:
        merged = merging.merge(
            plan,
            base_folder=sources.base,
            base=prepared.layout,
            config=prepared.config,
            adapter_path=adapter_path,
            out=out,
            device=request.device,
            progress=progress,
            witness=witness,
            digest=request.validation != "none",
        )
    seen = replace(witness.found() if witness else Found(), digests=merged.digests)
    sidecars.write_sidecars(
        plan, base_folder=sources.base, adapter_folder=sources.adapter, config=prepared.config, out=out
    )
    original = "adapter_config.json" if plan.recipe is None else ORIGINAL  # of several, all of them
    shutil.copyfile(sources.adapter / original, out / ORIGINAL)
    report = None
    if request.validation != "none":
        report = passed(check(out, prepared, sources, request=request, progress=progress, seen=seen))
        write_record(out / REPORT_FILE, report)
    adapter_card, *further_cards, base_card = cards_of(prepared)
    text = model_card.model_card(
        plan,
        report=report,
        adapter_card=adapter_card,
        further_cards=further_cards,
        base_card=base_card,
        destination=request.destination,
    )
    write(out / CARD_FILE, text)
    write_record(out / PLAN_FILE, plan)
    return merged, report


def check(
    folder: Path,
    prepared: Prepared,
    sources: Sources,
    *,
    request: MergeRequest,
    progress: Progress,
    seen: Found | None = None,
) -> Report:
    """Checks a merged folder; `seen` is what was proven while it was written. What is wrong is in the report."""
    from bot.validate import run as validation  # noqa: PLC0415 - numpy

    return validation.validate(
        folder,
        plan=prepared.plan,
        base_folder=sources.base,
        base=prepared.layout,
        adapter_folder=sources.adapter,
        request=request,
        progress=progress,
        seen=seen,
        exact=partial(_exact, prepared, sources),
    )


def _exact(prepared: Prepared, sources: Sources) -> Callable[[Binding], Any]:
    """Gives a binding's tensor in float64, once for each; imports what that needs when it is first asked to."""
    made: list[Callable[[Binding], Any]] = []

    def value(binding: Binding) -> Any:
        if not made:
            from bot.merge.exact import exact_merge  # noqa: PLC0415 - torch, transformers and PEFT

            exact = exact_merge(
                prepared.plan,
                base_folder=sources.base,
                base=prepared.layout,
                config=prepared.config,
                adapter_path=sources.adapter / prepared.plan.adapter_file,
            )
            made.append(exact)
        return made[0](binding)

    return value


def passed(report: Report) -> Report:
    """The report, when no check failed. Raises ValidationError, with the report, when one did."""
    if report.verdict == "failed":
        failed = [c for c in report.checks if c.verdict == "failed"]
        raise ValidationError(
            f"The merged model failed {len(failed)} of {len(report.checks)} checks, the first is {failed[0].name}:"
            f" {failed[0].detail}",
            advice="Nothing was published; please report it with the adapter's and the base's names.",
            code=f"validation-{failed[0].name}",
            report=report,
        )
    return report


def cards_of(prepared: Prepared) -> tuple[str | None, ...]:
    """The cards of every adapter, then the base's."""
    return tuple(card.read(m.files) for m in (*(prepared.further or (prepared.adapter,)), prepared.base))
