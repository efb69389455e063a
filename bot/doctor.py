"""`merge-bot doctor`: looks at an adapter's config and its bases, and on request writes the repaired config down."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bot.connect import LazyHub, repairer
from bot.diagnosis import Candidate, Diagnosis, Finding
from bot.errors import InputError, MergeBotError, MergeError, RefusedError
from bot.opening import open_reference
from bot.plan import adapter_config, adapter_keys, candidates, companions, fit
from bot.plan.examination import diagnose
from bot.plan.reference import hidden, is_path, is_repo_id
from bot.plan.rules import evidence
from bot.progress import Progress
from bot.publish import repair_message
from bot.records import Publication
from bot.settings import Settings
from bot.weights.files import Files, LocalFiles, Model
from bot.weights.header import Header
from bot.weights.layout import read_header

ORIGINAL = "adapter_config.original.json"
BASE_KEY = "base_model_name_or_path"
FOREIGN_PATH = "it is a path on the machine of whoever trained it; {who} names this base{fits}"


def doctor(
    adapter: str,
    *,
    base: str | None = None,
    fix: bool = False,
    pr: bool = False,
    settings: Settings,
    progress: Progress,
) -> Diagnosis:
    """The diagnosis. With `fix`, a folder gets the repaired file; with `pr`, a Hub repository gets a Hub PR with it.

    Raises InputError for a file that cannot be read, and what the Hub raises when the adapter cannot be opened.
    """
    hub = LazyHub(settings)
    progress.say(f"Examining {adapter}")
    model = open_reference(adapter, hub=hub)
    _check_way(model, fix=fix, pr=pr)
    content, odd = adapter_config.parse(adapter_config.read_bytes(model.files), files=model.files)
    header, broken = _header(model.files)
    weights = evidence.of(header) if header else None
    found = diagnose(
        content,
        name=str(model.pinned),
        weights=weights,
        odd=odd,
        wrong=broken or _tensors(header, model.files),
    )
    if not _is_foreign(found):
        compared = weights if fit.is_comparable(found.repaired or content) else None
        named = candidates.candidates(model, config=content, override=base, weights=compared, hub=hub)
        found = _with_base(replace(found, base=named), config=content)
    found = replace(found, notes=(*found.notes, *_notes(found, files=model.files)))
    if not fix or found.repaired is None:
        return found
    text = json.dumps(found.repaired, indent=2, allow_nan=False) + "\n"
    if isinstance(model.files, LocalFiles):
        return replace(found, written=str(_write(model.files.folder, text)))
    return replace(found, publication=_propose(found, text, model=model, settings=settings))


def _header(files: Files) -> tuple[Header | None, MergeBotError | None]:
    """The header of the weights, or why it cannot be read."""
    size = files.sizes().get(adapter_config.WEIGHTS)
    try:
        return (None if size is None else read_header(files, adapter_config.WEIGHTS, size=size)), None
    except InputError as error:
        return None, error


def _tensors(header: Header | None, files: Files) -> MergeBotError | None:
    """What is wrong with the tensors' names and dtypes, and with what lies beside them."""
    try:
        companions.check(files)
        if header is not None:
            adapter_keys.renames(t.name for t in header.tensors)
            adapter_keys.check_dtypes(header.tensors)
    except RefusedError as error:
        return error
    return None


def _check_way(model: Model, *, fix: bool, pr: bool) -> None:
    on_hub = model.pinned.kind == "hub"
    if pr and not (fix and on_hub):
        raise InputError(
            "--pr proposes the repaired config of a Hub adapter.",
            advice="Write `merge-bot doctor owner/name --fix --pr`; a folder needs --fix alone.",
            code="usage",
        )
    if fix and on_hub and not pr:
        raise InputError(
            f"{model.files.name} is on the Hub, where --fix writes nothing by itself.",
            advice="Add --pr to propose the repaired config as a Hub PR, or download the adapter and fix the folder.",
            code="usage",
        )


def _is_foreign(found: Diagnosis) -> bool:
    return any(f.rule == "not-peft" for f in found.refusals)


def _with_base(found: Diagnosis, *, config: dict[str, Any]) -> Diagnosis:
    """A path of somebody's machine becomes the one base that the card names, if that is there and may be it."""
    named = config.get(BASE_KEY)
    if not isinstance(named, str) or not named or _is_usable(named, found.base):
        return found
    others = [
        c for c in found.base if c.commit and c.fits is not False and c.named_by == "the adapter's model card"
    ]
    if len(others) != 1 or found.verdict == "refused":
        return found
    repair = _base_repair(named, others[0])
    repaired = {**(found.repaired or config), BASE_KEY: others[0].name}
    bone = found.verdict == "repairable" and found.repaired is None
    return replace(
        found,
        verdict="repairable",
        findings=(*found.findings, repair),
        repaired=None if bone else repaired,
    )


def _is_usable(named: str, base: tuple[Candidate, ...]) -> bool:
    """Whether the name can be asked for on the Hub, or leads to a folder that was opened."""
    reached = any(c.name == named and c.commit for c in base)
    return reached or (hidden(named) is None and not is_path(named) and is_repo_id(named))


def _base_repair(named: str, candidate: Candidate) -> Finding:
    fits = ", and its shapes fit" if candidate.fits else ""
    return Finding(
        kind="repair",
        rule="base-path",
        key=BASE_KEY,
        before=named,
        after=candidate.name,
        reason=FOREIGN_PATH.format(who=candidate.named_by, fits=fits),
        peft="all",
        reference="https://huggingface.co/docs/hub/model-cards#specifying-a-base-model",
    )


def _notes(found: Diagnosis, *, files: Files) -> list[str]:
    notes = []
    if not found.looked_at_weights:
        reason = "could not be read" if adapter_config.WEIGHTS in files.sizes() else "are not here"
        notes.append(f"the weights {reason} ({adapter_config.WEIGHTS}): ranks and shapes were not compared")
    if not _is_foreign(found) and not any(c.commit for c in found.base):
        notes.append("no base was found: name it with --base")
    return notes


def _write(folder: Path, text: str) -> Path:
    """The repaired file in place of the old one, which is kept under the first name of its own that is free."""
    path = folder / adapter_config.FILE
    try:
        mode = path.stat().st_mode & 0o777
        for number in itertools.count():
            kept = folder / (f"{Path(ORIGINAL).stem}.{number}.json" if number else ORIGINAL)
            with suppress(FileExistsError):
                _put(kept, path.read_bytes(), mode=mode, exclusive=True)
                break
        _put(path, text.encode(), mode=mode, exclusive=False)
    except OSError as error:
        raise MergeError(
            f"{path} could not be written: {(error.strerror or str(error)).lower()}.",
            advice="Check the folder's permissions and the free disk; the file is as it was.",
            code="write-failed",
        ) from error
    return path


def _put(path: Path, data: bytes, *, mode: int, exclusive: bool) -> None:
    """The whole file or nothing, also when the machine stops in between."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        if exclusive:
            os.link(name, path)
        else:
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _propose(found: Diagnosis, text: str, *, model: Model, settings: Settings) -> Publication:
    pinned = model.pinned
    place = f"{pinned.subfolder}/{adapter_config.FILE}" if pinned.subfolder else adapter_config.FILE
    digest = hashlib.sha256(f"{pinned.location}\0{place}\0{text}".encode()).hexdigest()[:32]
    key = f"doctor-{digest}"
    return repairer(settings, pinned.location).propose(
        pinned,
        files={place: text},
        key=key,
        title=repair_message.title(found),
        body=repair_message.body(found, key=key),
    )
