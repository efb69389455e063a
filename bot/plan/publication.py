"""Who may see a merge: one pure function over everything that decides it.

A merge into a folder is always allowed: nobody gets to see more than before. A publication is not, where base or
adapter are not for everybody, or where their licence does not let anybody pass on what is made of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bot.errors import RefusedError
from bot.request import Access

Audience = Literal["folder", "private", "public"]
# Of the Hub's identifiers, those whose text forbids to share adapted material: Creative Commons' "no derivatives"
# (cc-by-nd-4.0, cc-by-nc-nd-3.0, cc-by-nc-nd-4.0; the pattern takes other versions too). A merge is adapted material.
# https://huggingface.co/docs/hub/repositories-licenses, https://creativecommons.org/licenses/by-nd/4.0/legalcode
FORBIDDING = re.compile(r"cc-by-(nc-)?nd(-\d+(\.\d+)?)?", re.IGNORECASE)
OTHER = frozenset({"other", "unknown"})  # the Hub's words for a licence that it has no identifier for


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something that the merge is made of: base model, adapter or initial adapter.

    `owner` is the Hub's user or organisation, empty for a folder; `licenses` are the identifiers (and the names beside
    `other`) that its card gives. `pickle`: its weights are there as pickle alone. `remote_code`: what of it only code
    from its repository could build.
    """

    role: str
    name: str
    owner: str = ""
    private: bool = False
    gated: bool = False
    licenses: tuple[str, ...] = ()
    pickle: bool = False
    remote_code: str = ""

    @property
    def closed(self) -> bool:
        """Whether it is not for everybody."""
        return self.private or self.gated


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the decision rests on.

    `audience` is who could read the result: a Hub PR is read by whoever reads its repository. `access`: whether the
    one who asked may read every closed source; those below the names in `owned`, in small letters, are their own.
    `attended`: somebody sits there whose own tokens these are.
    """

    sources: tuple[Source, ...]
    audience: Audience
    destination: str = ""
    attended: bool = True
    access: Access = "unknown"
    owned: frozenset[str] = frozenset()
    allowed_licenses: frozenset[str] = frozenset()
    allow_pickle: bool = False


def decide(facts: Facts) -> tuple[str, ...]:
    """What there is to say about it (notes). Raises RefusedError for a merge or a publication that must not be.

    Its codes: `remote-code`, `pickle-only`, `wider-than-base`, `requester-without-access`,
    `requester-access-unknown`, `another-owner`, `license-forbids`.
    """
    for source in facts.sources:
        _refuse_code(source)
        if source.pickle and not facts.allow_pickle:
            raise _refusal(
                f"{source.name} has its weights only as pickle, a format that can carry code.",
                advice="Add --allow-pickle to read them as tensors and nothing else.",
                code="pickle-only",
            )
    if facts.audience != "folder":
        closed = [s for s in _base_first(facts.sources) if s.closed]
        if closed:
            _refuse_leak(facts, closed)
        _refuse_license(facts)
    return (*_conflict(facts.sources), *_told(facts))


def _refuse_code(source: Source) -> None:
    if source.remote_code:
        raise _refusal(
            f"{source.name} needs code from its repository: transformers itself has no {source.remote_code}.",
            advice="Code from repositories is never run here; a newer transformers may have the architecture.",
            code="remote-code",
        )


def _refuse_leak(facts: Facts, closed: list[Source]) -> None:
    """A merge gives away what it is made of: it goes to nobody who could not have had that."""
    first = closed[0]
    what = f"The {first.role} {first.name} is private or gated"
    if facts.audience == "public":
        raise _refusal(
            f"{what}, and {facts.destination} would be readable by everybody.",
            advice="Publish to a private repository of your own: --to owner/name without --public and --pr.",
            code="wider-than-base",
        )
    if facts.access == "no":
        raise _refusal(
            f"Whoever asked may not read the {first.role} {first.name}, which is private or gated.",
            advice="Ask its owner for access on the Hub, then ask again.",
            code="requester-without-access",
        )
    if facts.attended:
        return
    unknown = next((s for s in closed if s.owner.casefold() not in facts.owned), None)
    if facts.access == "unknown" and unknown is not None:
        raise _refusal(
            f"The {unknown.role} {unknown.name} is private or gated,"
            " and whether the one who asked may read it is not known.",
            advice="Run merge-bot yourself, with your own token.",
            code="requester-access-unknown",
        )
    owner = facts.destination.partition("/")[0].casefold()
    for source in closed:
        if source.owner.casefold() != owner:
            raise _refusal(
                f"The {source.role} {source.name} is private or gated,"
                f" and {facts.destination} belongs to another owner.",
                advice=f"Publish below {source.owner}/, or run merge-bot yourself, with your own token.",
                code="another-owner",
            )


def _refuse_license(facts: Facts) -> None:
    for source in _base_first(facts.sources):
        for name in _forbidding(source):
            if name.casefold() not in facts.allowed_licenses:
                raise _refusal(
                    f"The licence of the {source.role} {source.name}, {name}, forbids to share what is made of it.",
                    advice="Merge into a folder; or, if you have the right, set MERGE_BOT_ALLOW_LICENSES="
                    f"{name.casefold()}.",
                    code="license-forbids",
                )


def _conflict(sources: Iterable[Source]) -> list[str]:
    """Licences that differ: the base's stays, and every one is named."""
    stated = [s for s in _base_first(sources) if s.licenses]
    if len({_called(s).casefold() for s in stated}) < 2:
        return []
    told = ", ".join(f"{_called(s)} ({s.role})" for s in stated)
    kept = "that of the base model is kept" if stated[0].role == BASE else "the card states none"
    return [f"the licences differ: {told}; {kept}"]


def _told(facts: Facts) -> list[str]:
    notes = []
    for source in _base_first(facts.sources):
        for name in _forbidding(source):
            allowed = "published because MERGE_BOT_ALLOW_LICENSES names it"
            kept = "the result may be used here and not be shared"
            why = kept if facts.audience == "folder" else allowed
            notes.append(
                f"{name}, the licence of the {source.role}, forbids to share what is made of it: {why}"
            )
    base = next((s for s in facts.sources if s.role == BASE), None)
    if base and facts.audience != "folder":
        if not base.licenses:
            notes.append(f"{base.name} states no licence: whether the merge may be shared is not known")
        elif not OTHER.isdisjoint(n.casefold() for n in base.licenses):
            notes.append(f"the licence of {base.name} is {_called(base)}: its terms are for you to read")
    return notes


BASE, ADAPTER, INITIAL = "base model", "adapter", "initial adapter"


def _base_first(sources: Iterable[Source]) -> list[Source]:
    return sorted(sources, key=lambda s: s.role != BASE)


def _called(source: Source) -> str:
    return " and ".join(n for n in source.licenses if n.casefold() not in OTHER) or "other"


def _forbidding(source: Source) -> list[str]:
    return [name for name in source.licenses if FORBIDDING.fullmatch(name)]


def _refusal(sentence: str, *, advice: str, code: str) -> RefusedError:
    return RefusedError(sentence, advice=advice, code=code)
