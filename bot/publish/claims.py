"""What a merged model says about itself: plan, report and statement, read as a stranger's and compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.errors import InputError
from bot.publish.provenance import BUILD, PREDICATE, STATEMENT, called, purl
from bot.publish.result import PLAN_FILE, PROVENANCE_FILE, REPORT_FILE
from bot.publish.schemas import against
from bot.records import Pinned, Plan, Report
from bot.request import AskedWay
from bot.schema import faults
from bot.serial import from_dict

TEXT = {"type": "string"}
DIGESTS = {"type": "object", "additionalProperties": TEXT}
STATED: dict[str, Any] = {  # as much of a statement as is read here
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "properties": {
        "_type": {"const": STATEMENT},
        "predicateType": {"const": PREDICATE},
        "subject": {"type": "array", "items": {"$ref": "#/$defs/Named"}},
        "predicate": {
            "type": "object",
            "required": ["buildDefinition"],
            "properties": {"buildDefinition": {"$ref": "#/$defs/Definition"}},
        },
    },
    "$defs": {
        "Named": {
            "type": "object",
            "required": ["name", "digest"],
            "properties": {"name": TEXT, "digest": DIGESTS},
        },
        "Definition": {
            "type": "object",
            "required": ["buildType", "externalParameters", "internalParameters", "resolvedDependencies"],
            "properties": {
                "buildType": {"const": BUILD},
                "externalParameters": {
                    "type": "object",
                    "required": ["way"],
                    "properties": {"way": {"enum": ["auto", "whole"]}},
                },
                "internalParameters": {
                    "type": "object",
                    "required": ["planKey", "device"],
                    "properties": {"planKey": TEXT, "device": {"enum": ["cpu", "cuda"]}},
                },
                "resolvedDependencies": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"name": TEXT, "uri": TEXT, "digest": DIGESTS}},
                },
            },
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A file that is said to have gone into a merge: `name` in the statement, `file` at its `source`."""

    name: str
    source: Pinned
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What is said: `files` are names and SHA-256, `origins` what went in, `way` and `device` how it was merged.

    `contradictions`: sentences about what cannot all be true; `stated` is whether there is a statement.
    """

    plan: Plan
    report: Report
    files: dict[str, str]
    stated: bool
    way: AskedWay = "auto"
    device: str = "cpu"
    origins: tuple[Origin, ...] = ()
    contradictions: tuple[str, ...] = field(default=())


def read(texts: Mapping[str, bytes], *, place: str) -> Claims:
    """The claims in these files, by name. Raises InputError without plan or report, and for files that are broken."""
    if PLAN_FILE not in texts:
        raise InputError(
            f"{place} holds no {PLAN_FILE}, so this bot did not make it.",
            advice="`merge-bot validate` checks merged models of any origin against their adapter and base.",
            code="not-a-result",
        )
    if REPORT_FILE not in texts:
        raise InputError(
            f"{place} holds no {REPORT_FILE}: it was merged without checks, or the report was removed.",
            advice="Nothing says what its files should be; check it with `merge-bot validate`, or merge again.",
            code="no-report",
        )
    plan: Plan = from_dict(Plan, _json(texts, PLAN_FILE, place=place))
    report: Report = from_dict(Report, _json(texts, REPORT_FILE, place=place))
    if PROVENANCE_FILE not in texts:
        found = tuple(_between(plan, report))
        return Claims(plan=plan, report=report, files=report.files, stated=False, contradictions=found)
    document = _json(texts, PROVENANCE_FILE, place=place)
    definition = document["predicate"]["buildDefinition"]
    files = {one["name"]: one["digest"].get("sha256", "") for one in document["subject"]}
    origins = tuple(_origins(plan, definition["resolvedDependencies"]))
    return Claims(
        plan=plan,
        report=report,
        files=files | report.files,
        stated=True,
        way=definition["externalParameters"]["way"],
        device=definition["internalParameters"]["device"],
        origins=origins,
        contradictions=(
            *_between(plan, report),
            *_against_statement(plan, report, definition=definition, files=files),
            *_between_origins(plan, origins, definition["resolvedDependencies"]),
        ),
    )


def _json(texts: Mapping[str, bytes], name: str, *, place: str) -> Any:
    document: Any = None
    try:
        document = json.loads(texts[name])
        wrong = faults(document, STATED) if name == PROVENANCE_FILE else against(document, name)
    except (ValueError, RecursionError) as error:
        wrong = [f"it is no JSON ({error})"]
    if wrong:
        raise InputError(
            f"{place} holds a {name} that cannot be read: {wrong[0]}.",
            advice="If a newer version of this bot has written it, upgrade; else do not rely on it.",
            code="not-a-result",
        )
    return document


def _between(plan: Plan, report: Report) -> Iterator[str]:
    if report.plan_key != plan.key:
        yield f"{REPORT_FILE} is about the plan {report.plan_key}, and {PLAN_FILE} is the plan {plan.key}"
    ours, theirs = ((*r.further, r.adapter, r.base) for r in (plan, report))
    if [_identity(p) for p in ours] != [_identity(p) for p in theirs] or plan.recipe != report.recipe:
        yield f"{REPORT_FILE} is about another adapter or base than {PLAN_FILE}"
    if report.verdict != "passed":
        yield f"{REPORT_FILE} says that the checks were {report.verdict}"
    lost = [name for name in plan.shards if name not in report.files]
    if lost:
        yield f"{REPORT_FILE} says nothing of {lost[0]}, which is part of {PLAN_FILE}"


def _against_statement(
    plan: Plan, report: Report, *, definition: Mapping[str, Any], files: Mapping[str, str]
) -> Iterator[str]:
    key = definition["internalParameters"]["planKey"]
    if key != plan.key:
        yield f"{PROVENANCE_FILE} is about the plan {key}, and {PLAN_FILE} is the plan {plan.key}"
    made_of = {one.get("uri") for one in definition["resolvedDependencies"]}
    for pinned in plan.sources:
        if pinned.kind == "hub" and purl(pinned) not in made_of:
            yield f"{PROVENANCE_FILE} does not name {pinned}, which {PLAN_FILE} does"
    odd = [name for name, sha256 in report.files.items() if files.get(name) != sha256]
    if odd:
        yield f"{PROVENANCE_FILE} and {REPORT_FILE} give different digests of {odd[0]}"


def _origins(plan: Plan, dependencies: Iterable[Mapping[str, Any]]) -> Iterator[Origin]:
    places = {name: pinned for (_, pinned), name in called(plan).items()}
    for one in dependencies:
        role, _, file = one.get("name", "").partition("/")
        sha256 = one.get("digest", {}).get("sha256", "")
        if file and sha256 and role in places:
            yield Origin(name=one["name"], source=places[role], file=file, sha256=sha256)


def _between_origins(
    plan: Plan, origins: tuple[Origin, ...], dependencies: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    """What went in is of the plan's sources, and something of each of them that others can look at."""
    told = {one.get("name"): one.get("uri") for one in dependencies}
    for origin in origins:
        if origin.source.kind == "hub" and told[origin.name] != purl(origin.source, origin.file):
            yield f"{PROVENANCE_FILE} has {origin.name} from {told[origin.name]}, and {PLAN_FILE} from {origin.source}"
    for pinned in plan.sources:
        if pinned.kind == "hub" and not any(origin.source == pinned for origin in origins):
            yield f"{PROVENANCE_FILE} names no file of {pinned}, which {PLAN_FILE} names"


def _identity(pinned: Pinned) -> tuple[str, str, str, str]:
    return pinned.kind, pinned.location, pinned.commit, pinned.subfolder
