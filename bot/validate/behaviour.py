"""The proof by use: the merged folder, loaded by plain transformers, answers as base + live adapter does."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bot.errors import MergeBotError
from bot.evidence import Scores
from bot.progress import Progress
from bot.records import Check, Plan
from bot.validate.answers import Answers, compare, sampled
from bot.validate.live import ask_live, load_base
from bot.validate.memory import choose_device, lacking, needed
from bot.validate.models import LOCAL, model_type
from bot.validate.oracle import Exact
from bot.validate.prompts import NoPromptsError, answers, batches, trained_tokens
from bot.validate.quiet import quiet, sentence
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from bot.wording import few


def check_behaviour(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    adapter_folder: Path,
    progress: Progress,
    prompts: tuple[str, ...] | None = None,
    device: str = "cpu",
    exact: Exact | None = None,
    scores: list[Scores] | None = None,
) -> list[Check]:
    """Checks `load`, `logits`, `answers` and `unlike_base`; one `logits` that is skipped when memory is too small.

    A few of the answers' numbers are added to `scores`, when there are any.
    """
    try:
        base = read_layout(LocalFiles(base_folder))
    except MergeBotError as error:
        return [_failed("logits", error.sentence)]
    if lack := lacking(plan, base=base, adapter_file=adapter_folder / plan.adapter_file):
        return [Check(name="logits", verdict="skipped", figure="", detail=lack)]
    place = choose_device(
        device, need=needed(plan, base=base, adapter_file=adapter_folder / plan.adapter_file)
    )
    progress.begin("Comparing answers", total=0)
    with quiet():
        checks = _compared(
            merged,
            plan=plan,
            base_folder=base_folder,
            adapter_folder=adapter_folder,
            prompts=prompts,
            device=place,
            exact=exact,
            scores=scores if scores is not None else [],
        )
    progress.end()
    return checks


def _compared(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    adapter_folder: Path,
    prompts: tuple[str, ...] | None,
    device: str,
    exact: Exact | None,
    scores: list[Scores],
) -> list[Check]:
    """One model in memory at a time: base + adapter first, then merged."""
    try:
        model, lacked = load_base(plan, base_folder=base_folder, merged=merged)
        configs = [p.adapter_config for p in (plan.stages or (plan,))]
        tokens = tuple(sorted({token for config in configs for token in trained_tokens(config)}))
        rows = batches(merged, model=model, task=plan.task_type, prompts=prompts, tokens=tokens)
        expected = ask_live(
            model,
            rows,
            plan=plan,
            base_folder=base_folder,
            adapter_folder=adapter_folder,
            device=device,
            exact=exact,
            merged=merged,
        )
    except NoPromptsError as error:
        return [Check(name="logits", verdict="skipped", figure="", detail=f"No prompts: {error}.")]
    except Exception as error:  # noqa: BLE001  # transformers, PEFT and strangers' files raise what they like
        return [_failed("logits", f"Base + adapter cannot be asked: {sentence(error)}.")]
    del model
    gc.collect()
    lacked -= {binding.parameter for binding in plan.bindings}
    checks, asked = _ask_merged(merged, plan=plan, rows=rows, expected=expected, lacked=lacked, device=device)
    scores += [found] if asked and (found := sampled(expected, asked)) else []
    return checks


def _ask_merged(
    merged: Path,
    *,
    plan: Plan,
    rows: list[dict[str, Tensor]],
    expected: Answers,
    lacked: set[str],
    device: str,
) -> tuple[list[Check], list[Tensor]]:
    """The checks, and the merged model's answers; none when it has given none."""
    try:
        model, info = model_type(plan.model_class).from_pretrained(
            merged, dtype=torch.float32, output_loading_info=True, **LOCAL
        )
    except Exception as error:  # noqa: BLE001  # the same
        return [_failed("load", f"The merged model does not load: {sentence(error)}.")], []
    load = _load_check(info, lacked=lacked)
    try:
        asked = answers(model.to(device), rows, device=device)
        return [load, *compare(expected, asked)], asked
    except Exception as error:  # noqa: BLE001  # the same
        return [load, _failed("logits", f"The merged model cannot be asked: {sentence(error)}.")], []


def _load_check(info: dict[str, Any], *, lacked: set[str]) -> Check:
    """Nothing is missing or mismatched on loading that the base did not lack."""
    missing = sorted(set(info["missing_keys"]) - lacked)
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    problems = [f"No tensor for {few(missing)}."] if missing else []
    problems += [f"Shapes do not fit: {few(mismatched)}."] if mismatched else []
    problems += [sentence(RuntimeError(str(entry))) for entry in info.get("error_msgs") or []]
    figure = f"{len(missing)} missing, {len(mismatched)} mismatched"
    detail = " ".join(problems) or "Plain transformers loads it, nothing is missing."
    return Check(name="load", verdict="failed" if problems else "passed", figure=figure, detail=detail)


def _failed(name: str, detail: str) -> Check:
    return Check(name=name, verdict="failed", figure="", detail=detail)
