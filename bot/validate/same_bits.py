"""The proof of `--parity peft`: the merged folder holds the bits of PEFT's own merge, made anew with plain PEFT."""

from __future__ import annotations

from pathlib import Path

import torch

from bot.errors import MergeBotError
from bot.records import Check, Plan
from bot.validate.live import merged_by_peft
from bot.validate.memory import lacking
from bot.validate.models import LOCAL, model_type
from bot.validate.quiet import quiet, sentence
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from bot.wording import few


def check_same_bits(merged: Path, *, plan: Plan, base_folder: Path, adapter_folder: Path) -> Check:
    """Check `parity`; skipped when memory is too small for two models."""
    try:
        lack = lacking(
            plan, base=read_layout(LocalFiles(base_folder)), adapter_file=adapter_folder / plan.adapter_file
        )
    except MergeBotError as error:
        return Check(name="parity", verdict="failed", figure="", detail=error.sentence)
    if lack:
        return Check(name="parity", verdict="skipped", figure="", detail=lack)
    try:
        with quiet():
            want, got = _states(merged, plan=plan, base_folder=base_folder, adapter_folder=adapter_folder)
    except Exception as error:  # noqa: BLE001  # transformers, PEFT and strangers' files raise what they like
        return Check(name="parity", verdict="failed", figure="", detail=f"Cannot be made: {sentence(error)}.")
    differ = sorted(k for k in want.keys() | got.keys() if not _same(want.get(k), got.get(k)))
    figure = f"{len(want) - len(differ):,} of {len(want):,} equal"
    if differ:
        return Check(
            name="parity", verdict="failed", figure=figure, detail=f"Not PEFT's bits: {few(differ)}."
        )
    return Check(name="parity", verdict="passed", figure=figure, detail="Every tensor is merge_and_unload's.")


def _states(
    merged: Path, *, plan: Plan, base_folder: Path, adapter_folder: Path
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The tensors of both models, by name, as plain transformers holds them."""
    theirs = merged_by_peft(plan, base_folder=base_folder, merged=merged, adapter_folder=adapter_folder)
    kind = theirs.get_parameter(plan.bindings[0].parameter).dtype
    ours = model_type(plan.model_class).from_pretrained(merged, dtype=kind, **LOCAL)
    return theirs.state_dict(), ours.state_dict()


def _same(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    return (
        first is not None
        and second is not None
        and first.dtype == second.dtype
        and torch.equal(first, second)
    )
