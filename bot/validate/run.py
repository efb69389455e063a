"""The validate stage in order: structure ⊂ tensors ⊂ full."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bot.progress import Progress
from bot.records import Check, Plan, Report, Way
from bot.validate.behaviour import check_behaviour
from bot.validate.memory import choose_device
from bot.validate.oracle import Exact
from bot.validate.report import make_report
from bot.validate.structure import check_structure
from bot.validate.tensors import check_tensors
from bot.weights.device import choose
from bot.weights.layout import Layout


def validate(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    base: Layout,
    adapter_folder: Path,
    level: Way,
    device: str,
    progress: Progress,
    exact: Callable[[], Exact] | None = None,
) -> Report:
    """Checks a merged folder against its sources. What is wrong with it is in the report and raises nothing.

    `exact` makes a function that gives the float64 value of a binding whose method has no formula here.
    """
    start = time.monotonic()
    device = choose_device(choose(device), need=0)
    checks: list[Check] = []
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
        )
    if level == "full" and readable:
        checks += check_behaviour(
            merged,
            plan=plan,
            base_folder=base_folder,
            adapter_folder=adapter_folder,
            progress=progress,
            device=device,
            exact=exact() if exact else None,
        )
    seconds = time.monotonic() - start
    return make_report(plan, level=level, checks=checks, merged=merged, device=device, seconds=seconds)
