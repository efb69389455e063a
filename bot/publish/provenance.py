"""`merge_provenance.json`: an in-toto statement with a SLSA provenance predicate, unsigned, without paths of ours.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.1/provenance. Fields of
our own are called `mergebot_…`, which both allow.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bot.errors import InputError
from bot.provenance import InputFile, Ran
from bot.publish.escape import folder_name
from bot.publish.result import PROVENANCE_FILE, write
from bot.publish.shareable import shareable
from bot.records import MergedModel, Pinned, Plan, Report
from bot.request import MergeRequest
from bot.serial import as_dict

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "urn:adapter-merge-bot:merge:1"
BUILDER = (
    "urn:adapter-merge-bot:builder:unattested"  # whoever signs the statement puts their own in its place
)
WHOLE = 64 * 2**20  # bytes: larger files are not read for their digest alone
NOT_READ = (
    "a local file this large is not read a second time; the fingerprint of its folder covers both its ends"
)
NOT_CHECKED = "the result was not checked, and its digest is taken with the checks"


def statement(
    folder: Path,
    plan: Plan,
    *,
    request: MergeRequest,
    inputs: tuple[InputFile, ...],
    merged: MergedModel,
    report: Report | None,
    ran: Ran,
) -> str:
    """The statement about the complete result in `folder`, as JSON. Raises OSError as it comes from the disk."""
    subject, unread = _subject(folder, known=report.files if report else merged.digests)
    shown = shareable(plan, plan=plan)
    names = called(plan)
    missing = [
        {"file": f"{names[file.role, file.source]}/{file.name}", "size": file.size, "reason": NOT_READ}
        for file in inputs
        if not file.sha256
    ]
    missing += [{"file": name, "reason": NOT_CHECKED} for name in unread]
    definition = {
        "buildType": BUILD,
        "externalParameters": _asked(shown, request),
        "internalParameters": _decided(shown, merged=merged, isolation=ran.isolation, missing=missing),
        "resolvedDependencies": [*_repositories(names), *_dependencies(inputs, names)],
    }
    return _text(
        {
            "_type": STATEMENT,
            "subject": subject,
            "predicateType": PREDICATE,
            "predicate": {"buildDefinition": definition, "runDetails": _run(merged, report, ran)},
        }
    )


def renew(folder: Path, *names: str) -> None:
    """Brings the folder's statement up to date with these of its files, of which some may be gone.

    Without a statement there is nothing to do.
    """
    there = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    for name, text in renewed(folder, there, gone=names).items():
        write(folder / name, text)


def renewed(folder: Path, texts: Mapping[str, str | bytes], *, gone: Iterable[str] = ()) -> dict[str, str]:
    """The folder's statement, by its name, as of the same result with these texts in place of the files of their names.

    `gone`: names that are no longer there, unless they are among the texts. Empty for a result of before
    there were statements. Raises InputError for a statement that cannot be read.
    """
    place = folder / PROVENANCE_FILE
    if not place.is_file():
        return {}
    try:
        document = json.loads(place.read_text("utf-8"))
        digests = {one["name"]: one["digest"] for one in document["subject"] if one["name"] not in {*gone}}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{place} cannot be read as a statement of this bot.",
            advice="Merge again into another folder.",
            code="not-a-result",
        ) from error
    data = {name: text.encode() if isinstance(text, str) else text for name, text in texts.items()}
    digests |= {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in data.items()}
    document["subject"] = [{"name": name, "digest": digests[name]} for name in sorted(digests)]
    return {PROVENANCE_FILE: _text(document)}


def _subject(folder: Path, *, known: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Every file of the result that is shown to others, with its digest; and those that have none."""
    found, unread = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == PROVENANCE_FILE or any(part[0] == "." for part in name.split("/")):
            continue
        if name not in known and path.stat().st_size > WHOLE:
            unread.append(name)
            continue
        digest = known.get(name) or hashlib.sha256(path.read_bytes()).hexdigest()
        found.append({"name": name, "digest": {"sha256": digest}})
    return found, unread


def _asked(plan: Plan, request: MergeRequest) -> dict[str, Any]:
    """What whoever asked decided on. References as they were resolved: what was typed may be a path."""
    return {
        "adapters": [_place(pinned) for pinned in plan.adapters],
        "base": _place(plan.base) | {"namedBy": plan.base_found_by},
        "initialAdapter": None if plan.initial is None else _place(plan.initial),
        "recipe": None if plan.recipe is None else as_dict(plan.recipe),
        "dtype": request.dtype,
        "device": request.device,
        "parity": request.parity,
        "way": request.way,
        "quantizedBase": request.quantized_base,
        "allowPickle": request.allow_pickle,
        "validation": request.validation,
        "thorough": request.thorough,
    }


def _place(pinned: Pinned) -> dict[str, Any]:
    if pinned.kind == "folder":
        return {"folder": folder_name(pinned), "fingerprint": pinned.commit}
    more = {"revision": pinned.revision, "subfolder": pinned.subfolder}
    return {"repository": pinned.location, "commit": pinned.commit} | {k: v for k, v in more.items() if v}


def _decided(
    plan: Plan, *, merged: MergedModel, isolation: str, missing: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "planKey": plan.key,
        "way": plan.way,
        "device": merged.device,
        "isolation": isolation,
        "dequantized": plan.dequantized,
        "patches": [as_dict(patch) for patch in plan.patches],
        "configEdits": [as_dict(edit) for edit in plan.config_edits],
        "withoutDigest": missing,
    }


def called(plan: Plan) -> dict[tuple[str, Pinned], str]:
    """What to call each source here: `adapter`, of several `adapter-1` and so on, `base`, `initial-adapter`."""
    several = len(plan.adapters) > 1
    found: dict[tuple[str, Pinned], str] = {
        ("adapter", pinned): f"adapter-{number}" if several else "adapter"
        for number, pinned in enumerate(plan.adapters, 1)
    }
    found["base", plan.base] = "base"
    if plan.initial is not None:
        found["initial-adapter", plan.initial] = "initial-adapter"
    return found


def _repositories(names: Mapping[tuple[str, Pinned], str]) -> Iterator[dict[str, Any]]:
    for (_, pinned), name in names.items():
        if pinned.kind == "hub":
            yield {"name": name, "uri": purl(pinned), "digest": {"gitCommit": pinned.commit}}


def _dependencies(
    inputs: Iterable[InputFile], names: Mapping[tuple[str, Pinned], str]
) -> Iterator[dict[str, Any]]:
    for file in inputs:
        if file.sha256:
            where = {"uri": purl(file.source, file.name)} if file.source.kind == "hub" else {}
            yield {
                "name": f"{names[file.role, file.source]}/{file.name}",
                **where,
                "digest": {"sha256": file.sha256},
                "annotations": {"size": file.size, "digestFrom": file.told_by},
            }


def purl(pinned: Pinned, name: str = "") -> str:
    """https://github.com/package-url/purl-spec: type huggingface, the commit as version, the file as subpath."""
    inside = "/".join(part for part in (pinned.subfolder, name) if part)
    return f"pkg:huggingface/{quote(pinned.location)}@{pinned.commit}" + (
        f"#{quote(inside)}" if inside else ""
    )


def _run(merged: MergedModel, report: Report | None, ran: Ran) -> dict[str, Any]:
    return {
        "builder": {"id": BUILDER, "version": ran.versions},
        "metadata": {
            "invocationId": uuid.uuid4().urn,
            "startedOn": ran.started,
            "finishedOn": ran.finished,
            "mergebot_machine": ran.machine | ({"gpu": merged.gpu} if merged.gpu else {}),
            "mergebot_seconds": {"merge": merged.seconds, "checks": report.seconds if report else None},
            "mergebot_peakMemoryBytes": merged.peak_bytes,
        },
    }


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
