"""The publish stage on the Hub: what is loaded before anyone sees it, sent in one commit, and looked at again there."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bot import reporting
from bot.building import passed
from bot.connect import written
from bot.errors import AccessError, HostError, InputError, InternalError, MergeError, ValidationError
from bot.isolation import room
from bot.progress import Progress
from bot.publish import messages, model_card, provenance, usage
from bot.publish.disk import explained
from bot.publish.result import CARD_FILE, PAGE_FILE, PLAN_FILE, REPORT_FILE
from bot.publish.shareable import shareable
from bot.records import Check, Plan, Publication, Report
from bot.request import Destination, MergeRequest, Reload
from bot.serial import to_json
from bot.settings import Settings
from bot.temporary import TemporaryFolder
from bot.weights.files import Model
from bot.wording import size

if TYPE_CHECKING:
    from bot.clients.hub_parcel import Parcel
    from bot.clients.hub_publisher import HubPublisher

Gate = Callable[[], None]  # what it raises stops the publication
PUBLISHED, RELOADED = "published", "reloaded"
SMALL = 10**9  # bytes: what `--reload auto` fetches once more
GONE = "The model was merged and sent shard by shard, and never was here as a whole."
BESIDE = 16 * 2**20  # bytes, up to which a file that was there before is fetched too: configs, templates


def publish(  # noqa: PLR0913 - what is published, where, and who is asked
    folder: Path,
    plan: Plan,
    report: Report | None,
    *,
    cards: tuple[str | None, ...],
    to: HubPublisher,
    request: MergeRequest,
    settings: Settings,
    progress: Progress,
    gate: Gate | None = None,
    parcel: Parcel | None = None,
) -> tuple[Publication, Report | None]:
    """Publishes a merged folder; `cards` are those of every adapter, then the base's. `gate` is asked last.

    `parcel`: its weights were sent ahead, shard by shard, and the folder has their outlines: nothing can be loaded.

    What was checked is loaded first as it will be published: the report that is published says so. Raises
    ValidationError when that fails, and then nothing is published; or when the Hub does not hold what was checked, and
    then the publication is taken back as far as may be.
    """
    destination = _on_hub(request.destination)
    if report is not None:
        report = passed(_with(report, _loaded(folder, plan, parcel, progress=progress)), plan=plan)
    texts = _texts(folder, plan, report, cards=cards, destination=destination, endpoint=to.endpoint)
    title = messages.title(plan)
    if request.dry_run:
        progress.say(f"Would publish {len(list(folder.iterdir()))} files to {destination.location}: {title}")
        return Publication(destination=destination, url=f"{to.endpoint}/{destination.location}"), report
    body = messages.body(
        plan, report=report, destination=destination, requested_by=request.requested_by, endpoint=to.endpoint
    )
    if gate is not None:
        gate()
    done = to.publish(
        folder,
        destination,
        plan=plan,
        message=f"{title}\n\n{body}",
        texts=texts,
        delete=reporting.NAMES,
        checked=report.files if report else None,
        parcel=parcel,
        progress=progress,
    )
    if report is not None and _is_new(done):
        whole = None if parcel else folder
        again = _again(done, whole, plan, report, reload=request.reload, settings=settings, progress=progress)
        done = replace(done, checks=(*done.checks, again))
    _stand_by(done, report, plan=plan, to=to)
    return done, report


def _loaded(folder: Path, plan: Plan, parcel: Parcel | None, *, progress: Progress) -> Check:
    """The check `published`: what transformers loads from the folder, if it is all there."""
    if parcel is not None:
        return replace(_skipped(GONE), name=PUBLISHED)
    progress.say("Loading the model as it will be published")
    return _load(folder.absolute(), plan, PUBLISHED, merged=folder)


def _on_hub(destination: Destination | None) -> Destination:
    if destination is None or destination.kind == "folder":
        raise InternalError("That is no place on the Hub.", advice="Please report this.", code="no-place")
    return destination


def _with(report: Report, check: Check) -> Report:
    """The report with that check in the place of an earlier one."""
    checks = (*(c for c in report.checks if c.name != check.name), check)
    return replace(report, checks=checks, verdict="failed" if check.verdict == "failed" else report.verdict)


def _texts(
    folder: Path,
    plan: Plan,
    report: Report | None,
    *,
    cards: tuple[str | None, ...],
    destination: Destination,
    endpoint: str,
) -> dict[str, str | bytes]:
    """The files that are written anew for the place of publication, without the folders of this machine."""
    texts: dict[str, str | bytes] = {PLAN_FILE: to_json(shareable(plan, plan=plan)) + "\n"}
    if report is not None:
        texts[REPORT_FILE] = to_json(shareable(report, plan=plan)) + "\n"
        page = (folder / PAGE_FILE).is_file()  # somebody made it, maybe of an earlier report
        texts |= reporting.files(plan, report, page=page, endpoint=endpoint)
    texts[CARD_FILE] = model_card.model_card(
        plan,
        report=report,
        adapter_card=cards[0],
        further_cards=cards[1:-1],
        base_card=cards[-1],
        destination=destination,
        endpoint=endpoint,
    )
    return texts | provenance.renewed(folder, texts, gone=reporting.NAMES)


def _is_new(done: Publication) -> bool:
    """Whether there is something to look at again: published by this run, and as it was sent."""
    return bool(done.checks) and all(check.verdict == "passed" for check in done.checks)


def _again(
    done: Publication,
    folder: Path | None,
    plan: Plan,
    report: Report,
    *,
    reload: Reload,
    settings: Settings,
    progress: Progress,
) -> Check:
    """The check `reloaded`: the model by its id, at the commit, from the Hub. Skipped when it is large.

    It is held against `folder`, or where that is gone, against what came back, if it is what was checked.
    """
    if folder is None and reload != "always":
        return _skipped(GONE)
    root = settings.scratch or Path(tempfile.gettempdir())
    try:
        with explained(root), _temporary(root) as cache:
            hub = written(settings, done.destination.location, cache=cache)
            model = hub.open(done.destination.location, revision=done.commit)
            names = _needed(model, ours=report.files)
            total = sum(model.files.sizes()[name] for name in names)
            if reload == "never" or (reload == "auto" and total > SMALL):
                return _skipped(f"{size(total)} were not fetched again; --reload always does.")
            place = hub.download(model, names=names, progress=progress)
            if folder is None and (other := _other(place, report.files)):
                return Check(
                    name=RELOADED, verdict="failed", figure="", detail=f"{other} came back different."
                )
            progress.say("Loading the model from the Hub")
            return _load(
                f"{model.pinned.location}@{done.commit}", plan, RELOADED, merged=folder or place, cache=cache
            )
    except (AccessError, HostError, InputError, MergeError) as error:  # it is published all the same
        return _skipped(error.sentence)


@contextmanager
def _temporary(root: Path) -> Iterator[Path]:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = TemporaryFolder(RELOADED, root=root)
    try:
        yield place.path
    finally:
        place.close()


def _load(place: Path | str, plan: Plan, name: str, *, merged: Path, cache: Path | None = None) -> Check:
    check: Check = room.call(
        "bot.work:load",
        place,
        plan,
        name=name,
        merged=merged.absolute(),
        model_class=usage.auto_class(plan.model_class, task_type=plan.task_type),
        cache=cache,
    )
    return check


def _other(place: Path, checked: dict[str, str]) -> str | None:
    """A file whose bytes are not those that were checked."""
    for name, sha256 in sorted(checked.items()):
        with (place / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return name
    return None


def _needed(model: Model, *, ours: dict[str, str]) -> list[str]:
    """What a loader looks at: the files that were checked, and small ones beside them that were there before."""
    sizes = model.files.sizes()
    beside = (name for name in sizes if "/" not in name and name[0] != "." and sizes[name] <= BESIDE)
    return sorted({*(ours.keys() & sizes), *beside})


def _skipped(why: str) -> Check:
    return Check(name=RELOADED, verdict="skipped", figure="", detail=why)


def _stand_by(done: Publication, report: Report | None, *, plan: Plan, to: HubPublisher) -> None:
    """Takes back what is not as it was checked. Raises ValidationError then, with all checks."""
    failed = next((check for check in done.checks if check.verdict == "failed"), None)
    if failed is None:
        return
    advice = to.take_back(done, comment=messages.withdrawal(failed))
    proof = report and replace(report, verdict="failed", checks=(*report.checks, *done.checks))
    raise ValidationError(
        f"{done.url} is not what was checked: {failed.detail}",
        advice=advice,
        code=f"publication-{failed.name}",
        report=proof,
        plan=plan,
    )
