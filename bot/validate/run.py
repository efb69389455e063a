"""The validate stage in order: structure ⊂ tensors ⊂ full."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bot.evidence import Scores
from bot.progress import Progress
from bot.records import Check, Plan, Report
from bot.request import MergeRequest
from bot.validate.evidence import evidence
from bot.validate.found import Found
from bot.validate.oracle import Exact
from bot.validate.report import make_report
from bot.validate.structure import check_structure
from bot.validate.tensors import check_tensors
from bot.weights.layout import Layout


def validate(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    base: Layout,
    adapter_folder: Path,
    request: MergeRequest,
    progress: Progress,
    exact: Callable[[], Exact] | None = None,
    seen: Found | None = None,
) -> Report:
    """Checks a merged folder against its sources. What is wrong with it is in the report and raises nothing.

    `request` says how much is checked and on which device answers are computed. `exact` makes a function that gives
    the float64 value of a binding whose method has no formula here. `seen`: what was found while the merge was
    written; it is not looked at again.
    """
    level = request.validation
    start = time.monotonic()
    used = "cpu"  # only answers are computed elsewhere
    checks: list[Check] = []
    seen, scores = seen or Found(), None
    if level != "none":
        progress.say("Checking files, configs and tokenizer")
        checks += check_structure(
            merged, plan=plan, base=base, base_folder=base_folder, adapter_folder=adapter_folder
        )
    readable = any(check.name == "keys" for check in checks)  # it comes once every header was read
    if level in ("tensors", "full") and readable:
        checks += check_tensors(
            merged,
            plan=plan,
            base_folder=base_folder,
            base=base,
            adapter_folder=adapter_folder,
            progress=progress,
            exact=exact() if exact else None,
            thorough=request.thorough,
            seen=seen,
        )
    if level == "full" and readable:
        found, scores, used = _behaviour(
            merged,
            plan=plan,
            base_folder=base_folder,
            adapter_folder=adapter_folder,
            device=request.device,
            progress=progress,
            exact=exact,
        )
        checks += found
    return make_report(
        plan,
        level=level,
        checks=checks,
        merged=merged,
        device=used,
        seconds=time.monotonic() - start,
        known=seen.digests,
        evidence=evidence(seen, scores=scores),
    )


def _behaviour(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    adapter_folder: Path,
    device: str,
    progress: Progress,
    exact: Callable[[], Exact] | None,
) -> tuple[list[Check], Scores | None, str]:
    """What only torch can check, some of the answers, and the device that was used for it."""
    from bot.validate.behaviour import check_behaviour  # noqa: PLC0415 - torch
    from bot.validate.memory import choose_device  # noqa: PLC0415
    from bot.validate.same_bits import check_same_bits  # noqa: PLC0415 - torch
    from bot.weights.device import choose  # noqa: PLC0415

    used = choose_device(choose(device), need=0)
    scores: list[Scores] = []
    checks = check_behaviour(
        merged,
        plan=plan,
        base_folder=base_folder,
        adapter_folder=adapter_folder,
        progress=progress,
        device=used,
        exact=exact() if exact else None,
        scores=scores,
    )
    if plan.parity == "peft":
        same = check_same_bits(merged, plan=plan, base_folder=base_folder, adapter_folder=adapter_folder)
        checks.append(same)
    return checks, next(iter(scores), None), used
