"""The checks of a merge whose shards are here one after the other: each when it is written, the rest when all are gone.

What only a whole model can show is not looked at, and the report says so.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bot.evidence import Evidence
from bot.records import Check, Plan, Report
from bot.shard import MergedShard
from bot.validate.evidence import evidence
from bot.validate.expected import expected_tensors
from bot.validate.found import Found
from bot.validate.quiet import sentence
from bot.validate.report import make_report, versions
from bot.validate.run import Subject
from bot.validate.structure import check_structure
from bot.validate.tensors import look
from bot.weights.header import Header
from bot.weights.layout import Layout, Shard
from bot.wording import counted

if TYPE_CHECKING:
    from bot.validate.modules import Answers

ALONE = "The model was merged shard by shard and never was here as a whole, so it was not loaded and asked."
APART = "lies in several shards, of which one is here at a time"


def look_at(subject: Subject, *, file: str, header: Header, seen: Found) -> Found:
    """Everything in the shard `file` that a witness of the merge has left out; the rest is in `seen` already."""
    look(
        subject.merged,
        Layout((Shard(file=file, header=header),)),
        plan=subject.plan,
        base_folder=subject.base_folder,
        base=subject.base,
        adapter_folder=subject.adapter_folder,
        progress=subject.progress,
        exact=subject.peft.exact() if subject.peft else None,
        thorough=subject.request.thorough,
        found=seen,
        only=frozenset(spec.name for spec in header.tensors),
    )
    return seen


def ask_layers(subject: Subject, *, file: str, header: Header, needs: Container[str]) -> Answers:
    """Asks the layers whose merged tensors lie in the shard `file`; `needs`: those of the base that are here."""
    from bot.validate.modules import Answers, ask  # noqa: PLC0415 - torch

    found, own = Answers(), {spec.name for spec in header.tensors}

    def here() -> Iterator[Any]:
        for layer in subject.peft.layers() if subject.peft else ():
            before, after = layer.tensors  # type: ignore[attr-defined]
            if after <= own and all(subject.base.files[name] in needs for name in before):
                yield layer
            elif after & own and min(after) in own:  # said once, where the first of them lies
                found.left.setdefault(APART, []).append(layer.name)

    try:
        ask(here, found=found, rounded_more=subject.plan.parity == "peft", progress=subject.progress)
    except Exception as error:  # noqa: BLE001  # PEFT and strangers' files raise what they like
        found.left.setdefault(sentence(error), []).append(f"the layers of {file}")
    return found


def told(answers: Answers) -> Check:
    """Check `modules`."""
    from bot.validate.modules import check_of  # noqa: PLC0415 - torch

    return check_of(answers)


def wrong(found: Found, *, plan: Plan) -> list[Check]:
    """The checks that one shard alone fails. That it is as the base is no fault: all together must differ."""
    return [c for c in found.checks(plan) if c.verdict == "failed" and c.name != "effect"]


def add_copy(shard: Shard, into: Found) -> None:
    """Adds a shard that the Hub has copied: its digest is the base's, so every tensor in it is."""
    for spec in shard.header.tensors:
        into.add_copy(spec.name, bytes_=spec.size, wrong=0, infinite=0)


def conclude(
    subject: Subject,
    *,
    found: Found,
    answers: Answers | None,
    shards: Iterable[MergedShard],
    started: float,
) -> Report:
    """The report of all shards. The folder holds their outlines, and every other file."""
    done = {shard.file: shard for shard in shards}
    level = subject.request.validation
    subject.progress.say("Checking files, configs and tokenizer")
    checks = check_structure(
        subject.merged,
        plan=subject.plan,
        base=subject.base,
        base_folder=subject.base_folder,
        adapter_folder=subject.adapter_folder,
    )
    if level in ("tensors", "full"):
        for name in expected_tensors(subject.plan, base=subject.base).keys() - found.proven:
            found.unproven.setdefault(name, "not looked at")
        checks += [_with_copies(check, done.values()) for check in found.checks(subject.plan)]
    if level == "full":
        if answers is not None:
            checks.append(told(answers))
        checks.append(Check(name="logits", verdict="skipped", figure="", detail=ALONE))
    return make_report(
        subject.plan,
        level=level,
        checks=checks,
        merged=subject.merged,
        device="cpu",
        seconds=time.monotonic() - started,
        known={name: shard.sha256 for name, shard in done.items()},
        evidence=evidence(found, answered=Evidence()),
    )


def failed(subject: Subject, problems: list[Check]) -> Report:
    """The report of a shard that is wrong: what is wrong with it, and no file."""
    plan = subject.plan
    return Report(
        verdict="failed",
        level=subject.request.validation,
        plan_key=plan.key,
        adapter=plan.adapter,
        further=plan.further,
        recipe=plan.recipe,
        base=plan.base,
        checks=tuple(problems),
        files={},
        versions=versions(),
        device="cpu",
        seconds=0.0,
        notes=plan.notes,
    )


def _with_copies(check: Check, shards: Iterable[MergedShard]) -> Check:
    """Says of `untouched` which shards it knows by their digests."""
    count = sum(shard.by_hub for shard in shards)
    if check.name != "untouched" or not count:
        return check
    more = f" {counted(count, 'shard')} of them the Hub has copied itself, by the base's SHA-256."
    return Check(name=check.name, verdict=check.verdict, figure=check.figure, detail=check.detail + more)
