"""`merge-bot verify`: holds a merged model, on the Hub or in a folder, against what it says about itself.

Weights on the Hub are not downloaded: it lists their SHA-256, also that of what went in. With `rebuild` the merge is
made again and compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bot.connect import LazyHub
from bot.errors import InputError, ValidationError
from bot.opening import open_reference
from bot.origins import recheck
from bot.plan.reference import checked
from bot.progress import Progress
from bot.provenance import FileState, Verification
from bot.publish import claims as claiming
from bot.publish.claims import Claims
from bot.publish.result import CARD_FILE, PLAN_FILE, PROVENANCE_FILE, REPORT_FILE
from bot.remerge import ABOUT, remerge
from bot.settings import Settings
from bot.validate.report import versions
from bot.weights.files import Hub, LocalFiles, Model, digest

RECORDS = (PLAN_FILE, REPORT_FILE, PROVENANCE_FILE)
LONGEST = 256 * 2**20  # bytes of a plan: one of a million tensors has about as many
AGAIN = "Verify it once more with the versions that it was made with: the notes name them."
OTHER_VERSIONS = "it was made with other versions"
UNSIGNED = (
    "nothing here is signed: this shows that the files are those that plan, report and statement speak of, and"
    " --rebuild that the merge gives them; neither shows who made them"
)
UNSTATED = f"there is no {PROVENANCE_FILE}, so that the card and the plan are held against nothing"
ADVICE = "Do not rely on it: look at its history for who changed what, or merge it again yourself."


def verify(
    place: str, *, rebuild: bool = False, allow_pickle: bool = False, settings: Settings, progress: Progress
) -> Verification:
    """What is found at a repository or in a folder of ours.

    Raises ValidationError, with the verification, when anything is not as it says; InputError for what says nothing
    about itself, RefusedError for a rebuild that cannot be, and what merging and the Hub raise.
    """
    hub = LazyHub(settings)
    progress.say(f"Verifying {place}")
    model = open_reference(place, hub=hub)
    sizes = _sizes(model)
    claims = claiming.read(_records(model, sizes), place=str(model.pinned))
    found = _digests(model, sizes, expected=claims.files, progress=progress)
    kept = _kept(model, claims, {n: s for n, s in sizes.items() if n not in claims.files}, hub=hub)
    files = tuple(_states(claims.files, found, kept=kept))
    inputs, unseen = recheck(claims, hub=hub, progress=progress) if not claims.contradictions else ((), ())
    failed = bool(claims.contradictions) or any(file.wrong for file in (*files, *inputs))
    rebuilt = None
    if rebuild and not failed:
        local = model.pinned.kind == "folder"
        again = remerge(claims, local=local, allow_pickle=allow_pickle, settings=settings, progress=progress)
        there = {name: sha256 for name, sha256 in found.items() if name not in ABOUT and name not in kept}
        rebuilt = tuple(_states(again, there, kept={}))
    verification = Verification(
        place=str(model.pinned),
        verdict="failed" if failed or any(file.wrong for file in rebuilt or ()) else "passed",
        plan_key=claims.plan.key,
        adapters=claims.plan.adapters,
        base=claims.plan.base,
        files=files,
        inputs=inputs,
        contradictions=claims.contradictions,
        rebuilt=rebuilt,
        notes=(*unseen, *_notes(claims, asked=rebuild, rebuilt=rebuilt)),
    )
    _raise_for(verification)
    return verification


def _sizes(model: Model) -> dict[str, int]:
    """Every file at the place, hidden ones aside, and its size."""
    if isinstance(model.files, LocalFiles):
        folder = model.files.folder
        listed = ((p.relative_to(folder).as_posix(), p) for p in sorted(folder.rglob("*")) if p.is_file())
        sizes = {name: path.stat().st_size for name, path in listed}
    else:
        sizes = model.files.sizes()
    return {name: size for name, size in sizes.items() if not any(p[0] == "." for p in name.split("/"))}


def _records(model: Model, sizes: Mapping[str, int]) -> dict[str, bytes]:
    large = next((name for name in RECORDS if sizes.get(name, 0) > LONGEST), None)
    if large:
        raise InputError(
            f"The {large} of {model.pinned} is larger than any of ours.",
            advice="Do not rely on it.",
            code="not-a-result",
        )
    return {name: model.files.read(name) for name in RECORDS if name in sizes}


def _digests(
    model: Model, sizes: Mapping[str, int], *, expected: Mapping[str, str], progress: Progress
) -> dict[str, str]:
    """The SHA-256 of every file: as the Hub lists it, else of what is read; empty where nobody expects one."""
    known = model.files.digests()
    read = [name for name in sizes if name in expected and name not in known]
    progress.begin("Reading files", total=sum(sizes[name] for name in read))
    found = {name: known.get(name, "") for name in sizes}
    for name in read:
        found[name] = digest(model.files, name, size=sizes[name], progress=progress)
    progress.end()
    return found


def _kept(model: Model, claims: Claims, more: Mapping[str, int], *, hub: Hub) -> dict[str, str]:
    """Files that nobody speaks of, but that the adapter's repository held at its commit, and this is that repository.

    Never the adapter's own: transformers would load it on top of the merged weights.
    """
    here = model.pinned
    names = [n for n in more if n not in ABOUT and not n.startswith(("adapter_config", "adapter_model"))]
    for pinned in claims.plan.adapters if here.kind == "hub" and names else ():
        if pinned.kind == "hub" and pinned.location.casefold() == here.location.casefold():
            before = hub.open(here.location, revision=checked(pinned).commit)
            then = before.files.sizes()
            same = [name for name in names if then.get(name) == more[name]]
            digests = {name: _either(model, name, more[name]) for name in same}
            return {n: sha for n, sha in digests.items() if sha == _either(before, n, more[n])}
    return {}


def _either(model: Model, name: str, size: int) -> str:
    return model.files.digests().get(name) or digest(model.files, name, size=size)


def _states(
    expected: Mapping[str, str], found: Mapping[str, str], *, kept: Mapping[str, str]
) -> Iterator[FileState]:
    for name in sorted(expected.keys() | found.keys()):
        wanted, there = expected.get(name, ""), found.get(name, "")
        if name not in expected:
            if name not in ABOUT:
                sha256 = kept.get(name, there)
                yield FileState(name=name, state="kept" if name in kept else "additional", found=sha256)
        elif name not in found:
            yield FileState(name=name, state="missing", expected=wanted)
        else:
            other = "edited" if name == CARD_FILE else "differs"
            state = "same" if wanted == there else other
            yield FileState(name=name, state=state, expected=wanted, found=there)  # type: ignore[arg-type]


def _notes(claims: Claims, *, asked: bool, rebuilt: tuple[FileState, ...] | None) -> Iterator[str]:
    yield UNSIGNED
    if not claims.stated:
        yield UNSTATED
    if asked and rebuilt is None:
        yield "it was not merged again: what is there is wrong already"
    here = versions()
    made = {name: version for name, version in claims.report.versions.items() if here.get(name) != version}
    if any(file.wrong for file in rebuilt or ()) and made:
        told = (f"{name} {version} (here {here.get(name, 'none')})" for name, version in made.items())
        yield f"{OTHER_VERSIONS}, which may give other bytes: {', '.join(told)}"


def _raise_for(found: Verification) -> None:
    if found.verdict == "passed":
        return
    groups = (found.files, found.inputs, found.rebuilt or ())
    wrong = next((bad for group in groups if (bad := [f for f in group if f.wrong])), [])
    if found.contradictions:
        sentence, code = f"{found.place} contradicts itself: {found.contradictions[0]}.", "contradiction"
    else:
        words = {"differs": "differs", "missing": "is missing", "additional": "is additional"}
        told = f"{wrong[0].name} {words[wrong[0].state]}" + (
            f", and {len(wrong) - 1} more are wrong" * (len(wrong) > 1)
        )
        sentence, code = f"{found.place} is not as it was published: {told}.", wrong[0].state
        if wrong[0] in found.inputs:
            sentence = f"{found.place} was not made of what it names: {told}."
            code = "inputs"
        if found.rebuilt is not None:
            sentence, code = f"Merging again does not give what {found.place} holds: {told}.", "rebuild"
    other = any(note.startswith(OTHER_VERSIONS) for note in found.notes)
    raise ValidationError(sentence, advice=AGAIN if other else ADVICE, code=f"verify-{code}", report=found)
