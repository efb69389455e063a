"""A recorded merge, made once more from the commits and with the options that were written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bot import pipeline
from bot.errors import RefusedError
from bot.inputs import digest
from bot.plan.reference import checked
from bot.progress import Progress
from bot.publish.claims import Claims
from bot.publish.pictures import PATHS
from bot.publish.result import CARD_FILE, PAGE_FILE, PLAN_FILE, PROVENANCE_FILE, REPORT_FILE, TEXT_FILE
from bot.records import Pinned
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from bot.temporary import TemporaryFolder

# What speaks of a merge, and differs each time.
ABOUT = frozenset({PLAN_FILE, REPORT_FILE, TEXT_FILE, PAGE_FILE, PROVENANCE_FILE, CARD_FILE, *PATHS})
DTYPES = frozenset({"auto", "float32", "bfloat16", "float16"})


def remerge(
    claims: Claims, *, local: bool, allow_pickle: bool, settings: Settings, progress: Progress
) -> dict[str, str]:
    """The SHA-256 of every file of the same merge, made now in a folder that is gone afterwards.

    `local`: a folder of this machine speaks, which alone may name others. Raises RefusedError where the merge cannot be
    made again, and what merging raises.
    """
    asked = replace(_request(claims, local=local), allow_pickle=allow_pickle)
    if settings.scratch is not None:
        settings.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = TemporaryFolder("rebuild", root=settings.scratch)
    try:
        out = place.path / "merged"
        to = Destination(kind="folder", location=str(out))
        plan, _, _ = pipeline.merge(replace(asked, destination=to), settings=settings, progress=progress)
        if plan.key != claims.plan.key:
            raise RefusedError(
                f"The recorded plan {claims.plan.key} cannot be made again: adapter, base and options give {plan.key}.",
                advice="A local source has changed, a repository was renamed, or the plan was edited.",
                code="rebuild-other-plan",
            )
        paths = {p.relative_to(out).as_posix(): p for p in sorted(out.rglob("*")) if p.is_file()}
        return {name: digest(path) for name, path in paths.items() if name not in ABOUT}
    finally:
        place.close()


def _request(claims: Claims, *, local: bool) -> MergeRequest:
    """The options that were recorded."""
    plan = claims.plan
    for pinned in plan.sources:
        if pinned.kind == "folder" and not local:
            raise RefusedError(
                f"This was merged from a local folder ({pinned.location}), which nobody else has.",
                advice="Leave out --rebuild, or run it where the folders are, on the merged folder.",
                code="rebuild-local",
            )
    if plan.dtype not in DTYPES:
        raise RefusedError(
            f"The recorded dtype is {plan.dtype!r}, which this bot does not know.",
            advice="Upgrade, or do not rely on it.",
            code="rebuild-other-plan",
        )
    adapter, *further = (_reference(pinned) for pinned in plan.adapters)
    named = plan.base_found_by == "adapter_config.json"  # then it has to be found in the same way
    on_hub = plan.base.kind == "hub"
    return MergeRequest(
        adapter=adapter,
        further=tuple(further),
        recipe=plan.recipe,
        base=None if named else _reference(plan.base),
        base_revision=checked(plan.base).commit if named and on_hub else None,
        initial_adapter=_reference(plan.initial) if plan.initial else None,
        dtype=plan.dtype,
        device=claims.device,
        parity=plan.parity,
        way=claims.way,
        quantized_base="dequantize" if plan.dequantized else "original",
        validation="none",
    )


def _reference(pinned: Pinned) -> str:
    if pinned.kind == "folder":
        return str(Path(pinned.location).absolute())
    subfolder = f":{pinned.subfolder}" if pinned.subfolder else ""
    return f"{checked(pinned).location}@{pinned.commit}{subfolder}"
