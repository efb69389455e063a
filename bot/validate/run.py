"""The validate stage in order: structure ⊂ tensors ⊂ full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bot.evidence import Evidence
from bot.progress import Progress
from bot.records import Check, Plan, Report
from bot.request import MergeRequest
from bot.validate.elsewhere import is_ours
from bot.validate.evidence import evidence
from bot.validate.found import Found
from bot.validate.oracle import Exact
from bot.validate.report import make_report
from bot.validate.structure import check_structure
from bot.validate.tensors import check_tensors
from bot.weights.layout import Layout

if TYPE_CHECKING:
    from bot.validate.modules import Layer


@dataclass(frozen=True, kw_only=True)
class Peft:
    """What PEFT makes of base and adapter, from those who may import the merge. Nothing is made before it is called.

    `exact`: the float64 value of a binding whose method has no formula here. `layers`: the live layers, beside those of
    the merged folder.
    """

    exact: Callable[[], Exact]
    layers: Callable[[], Iterable[Layer]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A merged folder, and what it is held against. `base` is the layout of `base_folder`.

    `request` says how much is checked, what the models are asked, and on which device. Without `peft`, methods that
    have no formula are not proven, and no layer is asked.
    """

    merged: Path
    plan: Plan
    base_folder: Path
    base: Layout
    adapter_folder: Path
    request: MergeRequest
    progress: Progress
    peft: Peft | None = None


def validate(subject: Subject, *, seen: Found | None = None) -> Report:
    """Checks a merged folder against its sources. What is wrong with it is in the report and raises nothing.

    `seen`: what was found while the merge was written; it is not looked at again.
    """
    start, level, seen = time.monotonic(), subject.request.validation, seen or Found()
    answered, used = Evidence(), "cpu"  # only answers are computed elsewhere
    checks = _structure(subject) if level != "none" else []
    readable = any(check.name == "keys" for check in checks)  # it comes once every header was read
    if level in ("tensors", "full") and readable:
        checks += _tensors(subject, seen=seen)
    if level == "full" and readable:
        checks += _layers(subject, seen=seen)
        found, answered, used = _behaviour(subject)
        checks += found
    return make_report(
        subject.plan,
        level=level,
        checks=checks,
        merged=subject.merged,
        device=used,
        seconds=time.monotonic() - start,
        known=seen.digests,
        evidence=evidence(seen, answered=answered),
    )


def _structure(subject: Subject) -> list[Check]:
    subject.progress.say("Checking files, configs and tokenizer")
    return check_structure(
        subject.merged,
        plan=subject.plan,
        base=subject.base,
        base_folder=subject.base_folder,
        adapter_folder=subject.adapter_folder,
    )


def _tensors(subject: Subject, *, seen: Found) -> list[Check]:
    return check_tensors(
        subject.merged,
        plan=subject.plan,
        base_folder=subject.base_folder,
        base=subject.base,
        adapter_folder=subject.adapter_folder,
        progress=subject.progress,
        exact=subject.peft.exact() if subject.peft else None,
        thorough=subject.request.thorough,
        seen=seen,
    )


def _layers(subject: Subject, *, seen: Found) -> list[Check]:
    """Check `modules`."""
    if subject.peft is None:
        return []
    from bot.validate.modules import check_modules  # noqa: PLC0415 - torch

    ours = seen.ours or is_ours(subject.merged, plan=subject.plan)
    more = not ours or subject.plan.parity == "peft"
    return [check_modules(subject.peft.layers, rounded_more=more, progress=subject.progress)]


def _behaviour(subject: Subject) -> tuple[list[Check], Evidence, str]:
    """What only whole models can show, what was measured, and the device that was used for it."""
    from bot.validate.behaviour import check_behaviour  # noqa: PLC0415 - torch
    from bot.validate.memory import choose_device  # noqa: PLC0415
    from bot.validate.same_bits import check_same_bits  # noqa: PLC0415 - torch
    from bot.weights.device import choose  # noqa: PLC0415

    used = choose_device(choose(subject.request.device), need=0)
    checks, found = check_behaviour(
        subject.merged,
        plan=subject.plan,
        base_folder=subject.base_folder,
        adapter_folder=subject.adapter_folder,
        request=subject.request,
        progress=subject.progress,
        device=used,
        exact=subject.peft.exact() if subject.peft else None,
    )
    if subject.plan.parity == "peft":
        checks.append(
            check_same_bits(
                subject.merged,
                plan=subject.plan,
                base_folder=subject.base_folder,
                adapter_folder=subject.adapter_folder,
            )
        )
    return checks, found, used
