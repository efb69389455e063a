"""The answers of base and adapter that do not fit into memory, as `bot.validate.live` gives them, layer by layer.

What is rounded is written to the disk, tensor by tensor, and read from there in place of the base's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bot.records import Check, Plan
from bot.validate.expected import output_dtype
from bot.validate.live import assign, fused, is_rounded, references, with_adapter
from bot.validate.offload import Disk, OffloadError
from bot.validate.oracle import Exact
from bot.validate.prompts import NoPromptsError
from bot.validate.questions import Asked, Questions, Told
from bot.validate.quiet import sentence
from bot.weights.reader import TORCH_DTYPES

TOGETHER = frozenset({"FROD"})  # of PEFT types: what is not there would go in without a trace


def ask_offloaded(
    model: Any,
    questions: Questions,
    *,
    disk: Disk,
    plan: Plan,
    base_folder: Path,
    adapter_folder: Path,
    merged: Path | None = None,
    exact: Exact | None = None,
) -> Asked:
    """What the base, base + adapter, and the reference rounded as on disk say. Uses `model` up.

    Raises OffloadError where this model or adapter does not run so.
    """
    if plan.stages:
        raise OffloadError("adapters one after the other are merged in memory")
    if plan.peft_type in TOGETHER:
        raise OffloadError("its layers are computed from the base's weights, all of them together")
    if plan.parity == "peft":
        raise OffloadError("PEFT's own merge is made in memory")
    del merged  # the same arguments as in memory
    try:
        base = _ask(model, questions, disk=disk)
    except OffloadError:
        raise
    except Exception as error:  # the base alone, as published: no fault of a merge
        raise NoPromptsError(f"the base itself does not answer them ({sentence(error)})") from error
    try:
        tuned = with_adapter(model, plan=plan, adapter_folder=adapter_folder, read=disk.read)
    except Exception as error:  # PEFT's methods raise what they like over weights that are not there
        raise OffloadError(f"PEFT cannot put the adapter on it ({sentence(error)})") from error
    disk.check(tuned)
    live = _ask(tuned, questions, disk=disk)
    if not is_rounded(plan):
        return Asked(base=base, live=live, rounded=None)
    disk.merge(tuned, names={name: _stored(plan, kind) for name, kind in fused(plan).items()})
    plain = tuned.unload()
    _round(plain, disk=disk, plan=plan, base_folder=base_folder, adapter_folder=adapter_folder, exact=exact)
    return Asked(base=base, live=live, rounded=_ask(plain, questions, disk=disk))


def sparing(questions: Questions, *, own: bool) -> Questions:
    """Fewer questions: for each the whole model is read from the disk, and for each token of a continuation again.

    Of our prompts (unless they are the user's `own`) the first, and the last: trained tokens, or a picture.
    """
    rows = questions.rows if own else [questions.rows[0], *questions.rows[1:][-1:]]
    if not questions.starts:
        return replace(questions, rows=rows)
    note = Check(name="continuations", verdict="skipped", figure="", detail="Not made offloaded to the disk.")
    return replace(questions, rows=rows, starts=(), greedy=None, notes=(*questions.notes, note))


def _ask(model: Any, questions: Questions, *, disk: Disk) -> Told:
    with disk.running(model):
        told = questions.ask(model)
    if any(answer.isnan().any() for answer in told.answers):
        raise OffloadError("a layer uses the weights of another one, or its answers are not numbers")
    return told


def _stored(plan: Plan, kind: str) -> torch.dtype:
    return TORCH_DTYPES[output_dtype(plan, kind)]


@torch.no_grad()
def _round(
    model: nn.Module,
    *,
    disk: Disk,
    plan: Plan,
    base_folder: Path,
    adapter_folder: Path,
    exact: Exact | None,
) -> None:
    """Puts the reference, rounded as on disk, in the place of each changed parameter."""
    if plan.dtype in ("bfloat16", "float16"):
        disk.round(getattr(torch, plan.dtype))
        for parameter in model.parameters():
            if not disk.holds(parameter):
                parameter.copy_(parameter.to(getattr(torch, plan.dtype)))
    made = references(plan, base_folder=base_folder, adapter_folder=adapter_folder, exact=exact)
    for binding, value in made:
        old = dict(model.named_parameters(remove_duplicate=False)).get(binding.parameter)
        if old is not None and disk.holds(old) and old.numel() == value.numel():
            rounded = value.reshape(old.shape).to(_stored(plan, binding.dtype))
            new: nn.Parameter | None = disk.store(binding.parameter, rounded, like=old)
        else:
            new = None
        assign(model, binding, value=value, plan=plan, stands_in=new)
