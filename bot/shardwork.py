"""What a worker does where a merge goes shard by shard: one shard from files to a file, and the end of all of them.

As in `bot.work`, it knows no Hub, no token and no destination. A shard needs nothing of what became of the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import work
from bot.errors import ValidationError
from bot.progress import Progress
from bot.records import Check, MergedModel, Plan, Report
from bot.request import MergeRequest
from bot.secret_text import masked
from bot.shard import MergedShard
from bot.weights import memory
from bot.weights.layout import INDEX, Layout
from bot.weights.sparse import write_outline

if TYPE_CHECKING:
    from bot.validate.found import Found
    from bot.validate.run import Subject


def merge_shard(
    plan: Plan,
    file: str,
    *,
    base: Layout,
    config: dict[str, Any],
    folders: dict[str, Path],
    request: MergeRequest,
    progress: Progress,
) -> MergedShard:
    """Merges the shard `file` into the folder `out` and proves it.

    `folders`: `base` holds what the shard needs of the base's shards and its small files, `adapter` the adapter; what
    was seen is written to `notes`. Raises what merging raises, ValidationError for a shard that is wrong.
    """
    from bot.merge import run as merging  # noqa: PLC0415 - numpy
    from bot.validate.witness import looking_on  # noqa: PLC0415

    started, out = time.monotonic(), folders["out"]
    (out / file).unlink(missing_ok=True)
    near: dict[str, Any] = {
        "base_folder": folders["base"],
        "base": base,
        "adapter_folder": folders["adapter"],
    }
    with looking_on(plan, **near, out=out, request=request) as witness:
        merged = merging.merge(
            plan,
            base_folder=folders["base"],
            base=base,
            config=config,
            adapter_path=folders["adapter"] / plan.adapter_file,
            out=out,
            device=request.device,
            progress=progress,
            witness=witness,
            digest=True,
            only=file,
        )
    if witness is not None:
        seen = replace(witness.found(), ours=True)
        subject = _subject(
            plan, base=base, config=config, folders=folders, request=request, progress=progress
        )
        _prove(file, subject, folders=folders, seen=seen)
    return MergedShard(
        file=file,
        sha256=merged.digests[file],
        size=(out / file).stat().st_size,
        merged=merged.merged,
        copied=merged.copied,
        changed=merged.changed,
        seconds=round(time.monotonic() - started, 3),
        peak_bytes=memory.peak(),
        device=merged.device,
    )


def _prove(file: str, subject: Subject, *, folders: dict[str, Path], seen: Found) -> None:
    """Writes down what was seen of a shard, and of its layers. Raises ValidationError for one that is wrong."""
    from bot.merge.shards import merged_header  # noqa: PLC0415 - numpy
    from bot.validate import shards as checking  # noqa: PLC0415
    from bot.validate.kept import write_answers, write_found  # noqa: PLC0415

    plan, base = subject.plan, subject.base
    shard = next(shard for shard in base.shards if shard.file == file)
    header = merged_header(plan, base=base, shard=shard)
    found = checking.look_at(subject, file=file, header=header, seen=seen)
    problems = checking.wrong(found, plan=plan)
    if subject.request.validation == "full":
        answers = checking.ask_layers(subject, file=file, header=header, needs=_here(folders, base=base))
        problems += [c for c in [checking.told(answers)] if c.verdict == "failed"]
        write_answers(folders["notes"] / f"{file}.answers.json", answers)
    if problems:
        raise _wrong(file, problems, report=checking.failed(subject, problems))
    write_found(folders["notes"] / f"{file}.found.json", found)


def begin(
    plan: Plan,
    *,
    base: Layout,
    config: dict[str, Any],
    folders: dict[str, Path],
    originals: dict[str, str],
) -> None:
    """Writes all but the weights into `out`: outlines of the shards, the index, and small files.

    `originals`: see `bot.work.make`.
    """
    from bot.merge import sidecars  # noqa: PLC0415
    from bot.merge.shards import merged_header, merged_index  # noqa: PLC0415

    out = folders["out"]
    headers = {shard.file: merged_header(plan, base=base, shard=shard) for shard in base.shards}
    for name, header in headers.items():
        write_outline(out / name, header)
    index = merged_index(base, headers=headers)
    if index is not None:
        (out / INDEX).write_text(index, encoding="utf-8")
    sidecars.write_sidecars(
        plan, base_folder=folders["base"], adapter_folder=folders["adapter"], config=config, out=out
    )
    for name, original in originals.items():
        text = (folders["adapter"] / original).read_bytes().decode("utf-8", "surrogateescape")
        (out / name).write_bytes(masked(text).encode("utf-8", "surrogateescape"))


def conclude(
    plan: Plan,
    shards: Sequence[MergedShard],
    *,
    base: Layout,
    config: dict[str, Any],
    folders: dict[str, Path],
    request: MergeRequest,
    progress: Progress,
) -> tuple[MergedModel, Report | None]:
    """Makes the report of everything, once the shards in `out` are outlines again.

    Raises RefusedError when nothing has changed in any of them.
    """
    from bot.merge.adapter import without_effect  # noqa: PLC0415 - numpy
    from bot.merge.shards import merged_header  # noqa: PLC0415
    from bot.validate import shards as checking  # noqa: PLC0415
    from bot.validate.found import Found  # noqa: PLC0415
    from bot.validate.kept import add_answers, add_found  # noqa: PLC0415

    started, out = time.monotonic(), folders["out"]
    if not any(shard.changed for shard in shards):
        raise without_effect("every merged tensor, rounded to its dtype, equals the base's")
    headers = [merged_header(plan, base=base, shard=shard) for shard in base.shards]
    merged = MergedModel(
        folder=str(out),
        merged=sum(shard.merged for shard in shards),
        copied=sum(shard.copied for shard in shards),
        added=len(plan.added),
        total_bytes=sum(t.size for header in headers for t in header.tensors),
        seconds=round(sum(shard.seconds for shard in shards), 3),
        device=next((s.device for s in shards if s.device != "cpu"), "cpu"),
        digests={shard.file: shard.sha256 for shard in shards},
        peak_bytes=max(memory.peak(), *(shard.peak_bytes for shard in shards)),
    )
    if request.validation == "none":
        return merged, None
    found, answers = Found(ours=True), None
    originals = {shard.file: shard for shard in base.shards}
    for shard in shards if request.validation in ("tensors", "full") else ():
        if shard.by_hub:
            checking.add_copy(originals[shard.file], found)
        else:
            add_found(folders["notes"] / f"{shard.file}.found.json", found)
    if request.validation == "full":
        from bot.validate.modules import Answers  # noqa: PLC0415 - torch

        answers = Answers()
        for shard in (s for s in shards if not s.by_hub):
            add_answers(folders["notes"] / f"{shard.file}.answers.json", answers)
    subject = _subject(plan, base=base, config=config, folders=folders, request=request, progress=progress)
    report = checking.conclude(subject, found=found, answers=answers, shards=shards, started=started)
    return merged, report


def _here(folders: dict[str, Path], *, base: Layout) -> frozenset[str]:
    """The base's shards that are here."""
    return frozenset(shard.file for shard in base.shards if (folders["base"] / shard.file).is_file())


def _subject(
    plan: Plan,
    *,
    base: Layout,
    config: dict[str, Any],
    folders: dict[str, Path],
    request: MergeRequest,
    progress: Progress,
) -> Subject:
    from bot.validate import run as validation  # noqa: PLC0415 - numpy

    sources: dict[str, Any] = {
        "base_folder": folders["base"],
        "base": base,
        "config": config,
        "adapter_path": folders["adapter"] / plan.adapter_file,
    }
    return validation.Subject(
        merged=folders["out"],
        plan=plan,
        base_folder=folders["base"],
        base=base,
        adapter_folder=folders["adapter"],
        request=request,
        progress=progress,
        peft=validation.Peft(
            exact=partial(work.exact, plan, **sources),
            layers=partial(work.layers, plan, merged=folders["out"], **sources),
        ),
    )


def _wrong(file: str, problems: Sequence[Check], *, report: Report) -> ValidationError:
    return ValidationError(
        f"The merged shard {file} failed the check {problems[0].name}: {problems[0].detail}",
        advice="Nothing was published; please report it with the adapter's and the base's names.",
        code=f"validation-{problems[0].name}",
        report=report,
    )
