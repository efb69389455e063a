"""The proof by use: the merged folder, loaded by plain transformers, answers as base + live adapter does."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bot.errors import MergeBotError
from bot.evidence import Evidence
from bot.progress import Progress
from bot.records import Check, Plan
from bot.request import MergeRequest
from bot.validate.baseline import Half, ask_in_half
from bot.validate.comparison import compared
from bot.validate.live import ask_live, load, load_base
from bot.validate.memory import choose_device, fit, needed
from bot.validate.offload import Disk, OffloadError, offloading
from bot.validate.offloaded import ask_offloaded, sparing
from bot.validate.oracle import Exact
from bot.validate.prompts import NoPromptsError
from bot.validate.questions import Asked, Questions, questions
from bot.validate.quiet import quiet, sentence
from bot.weights.files import LocalFiles
from bot.weights.layout import Layout, read_layout
from bot.wording import few

SMALL = 2**24  # numbers of a model
OFFLOADED = "All of them ran offloaded to the disk, one layer in memory at a time."


def check_behaviour(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    adapter_folder: Path,
    request: MergeRequest,
    progress: Progress,
    device: str = "cpu",
    exact: Exact | None = None,
) -> tuple[list[Check], Evidence]:
    """Check `load`, and those of `bot.validate.comparison`; one `logits` that is skipped when none can be.

    With what was measured. What does not fit into memory is offloaded to the disk. `request` holds the user's own
    prompts and text.
    """
    try:
        base = read_layout(LocalFiles(base_folder))
    except MergeBotError as error:
        return [_failed("logits", error.sentence)], Evidence()
    file = adapter_folder / plan.adapter_file
    room = fit(plan, base=base, base_folder=base_folder, adapter_file=file)
    if room.lack and room.weights is None:
        return [_skipped(room.lack)], Evidence()
    place = "cpu" if room.lack else choose_device(device, need=needed(plan, base=base, adapter_file=file))
    progress.begin("Comparing answers", total=0)
    try:
        with quiet(), _threads(base), offloading(room.weights) as disk:
            checks, found = _compared(
                merged,
                plan=plan,
                base_folder=base_folder,
                adapter_folder=adapter_folder,
                request=request,
                device=place,
                disk=disk,
                exact=exact,
            )
    except OffloadError as error:
        checks, found = [_skipped(f"{room.lack} Offloaded to the disk it does not run: {error}.")], Evidence()
    progress.end()
    return [_told(check) if room.lack else check for check in checks], found


def _told(check: Check) -> Check:
    """With the way that was taken."""
    asked = check.name == "logits" and check.figure
    return replace(check, detail=f"{check.detail} {OFFLOADED}") if asked else check


@contextmanager
def _threads(base: Layout) -> Iterator[None]:
    """One thread for a model so small that several would mostly wait for each other."""
    before = torch.get_num_threads()
    small = sum(math.prod(tensor.shape) for tensor in base.tensors.values()) < SMALL
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compared(
    merged: Path,
    *,
    plan: Plan,
    base_folder: Path,
    adapter_folder: Path,
    request: MergeRequest,
    device: str,
    disk: Disk | None,
    exact: Exact | None,
) -> tuple[list[Check], Evidence]:
    """One model at a time: base + adapter first, then the same in the merged dtype (in memory only), then merged."""
    where = {"base_folder": base_folder, "merged": merged, "adapter_folder": adapter_folder}
    try:
        model, lacked = load_base(plan, base_folder=base_folder, merged=merged, disk=disk)
        asking = _questions(merged, model=model, plan=plan, request=request, device=device)
        if disk is not None:
            asking = sparing(asking, own=bool(request.prompts))
            asked = ask_offloaded(model, asking, disk=disk, plan=plan, exact=exact, **where)
        else:
            asked = ask_live(model, asking, plan=plan, exact=exact, **where)
    except OffloadError:
        raise
    except NoPromptsError as error:
        return [_skipped(f"No prompts: {error}.")], Evidence()
    except Exception as error:  # noqa: BLE001  # transformers, PEFT and strangers' files raise what they like
        return [_failed("logits", f"Base + adapter cannot be asked: {sentence(error)}.")], Evidence()
    del model
    gc.collect()
    half = ask_in_half(plan, asking, **where) if disk is None else None
    if half is not None:
        gc.collect()
    lacked -= {binding.parameter for binding in plan.bindings}
    checks, found = _ask_merged(merged, asking, plan=plan, asked=asked, half=half, lacked=lacked, disk=disk)
    return [*checks, *asking.notes], found


def _questions(merged: Path, **what: Any) -> Questions:
    """The questions. Raises NoPromptsError where a tokenizer or processor declines what we make up for it."""
    try:
        return questions(merged, **what)
    except NoPromptsError:
        raise
    except Exception as error:  # they raise what they like, and that is no fault of a merge
        raise NoPromptsError(f"they cannot be made for this model ({sentence(error)})") from error


def _ask_merged(
    merged: Path,
    asking: Questions,
    *,
    plan: Plan,
    asked: Asked,
    half: Half | None,
    lacked: set[str],
    disk: Disk | None,
) -> tuple[list[Check], Evidence]:
    """The checks, and what was measured; nothing when the merged model has not answered."""
    try:
        model, info = load(plan, merged, disk=disk, dtype=torch.float32)
    except Exception as error:  # noqa: BLE001  # the same
        return [_failed("load", f"The merged model does not load: {sentence(error)}.")], Evidence()
    loads = _load_check(info, lacked=lacked)
    try:
        if disk is None:
            told = asking.ask(model.to(asking.device), timed=True)
        else:
            with disk.running(model):
                told = asking.ask(model)
        checks, found = compared(asking, asked, told, half=half)
    except Exception as error:  # noqa: BLE001  # the same
        return [loads, _failed("logits", f"The merged model cannot be asked: {sentence(error)}.")], Evidence()
    return [loads, *checks], found


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


def _skipped(detail: str) -> Check:
    return Check(name="logits", verdict="skipped", figure="", detail=detail)


def _failed(name: str, detail: str) -> Check:
    return Check(name=name, verdict="failed", figure="", detail=detail)
