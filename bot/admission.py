"""Gathers what decides whether a merge may be made and published: `bot.plan` decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bot.errors import AccessError, InputError
from bot.opening import Opened, OpenedBase, reopen
from bot.plan import card, limits, remote_code, sidecars
from bot.plan.publication import ADAPTER, BASE, INITIAL, Audience, Facts, Source, decide
from bot.plan.remote_code import without_code
from bot.records import Plan, Sidecar
from bot.request import Destination, MergeRequest
from bot.terms import Terms
from bot.weights.files import Files, Hub, Model

# Whether a Hub repository is private; None when there is none that the token's owner can see.
Look = Callable[[Destination], bool | None]


def admit(
    opened: Sequence[Opened],
    found: OpenedBase,
    *,
    request: MergeRequest,
    terms: Terms,
    look: Look,
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """What the merge is made of and what there is to say about it, once configs and headers are open.

    Raises RefusedError where the merge or its publication must not be: before a weight is asked for.
    """
    _check_download(opened, found, terms=terms)
    code = _remote_code(found)
    base = _source(BASE, found.base.model, pickle=bool(found.pickles), code=code)
    adapters = [_source(ADAPTER, each.adapter, pickle=bool(each.pickle)) for each in opened]
    starts = [_source(INITIAL, each.initial.model) for each in opened if each.initial]
    sources = (base, *adapters, *starts)
    return sources, check_publication(sources, request=request, terms=terms, look=look)


def check_publication(
    sources: tuple[Source, ...], *, request: MergeRequest, terms: Terms, look: Look
) -> tuple[str, ...]:
    """The decision for the request's destination. `look` is asked only where something is not for everybody."""
    to = request.destination
    return decide(
        Facts(
            sources=sources,
            audience=_audience(to, sources, look=look),
            destination=to.location if to else "",
            attended=request.attended,
            access=request.requester_access,
            owned=frozenset(name.casefold() for name in request.requester_owns),
            allowed_licenses=terms.allowed_licenses,
            allow_pickle=request.allow_pickle,
        )
    )


def reopened(plan: Plan, *, hub: Hub) -> tuple[Source, ...]:
    """What a finished merge was made of, as it is now. A folder that is gone says nothing any more."""
    roles = [(BASE, plan.base), *((ADAPTER, a) for a in plan.adapters)]
    roles += [(INITIAL, plan.initial)] if plan.initial else []
    models = [(role, reopen(pinned, hub=hub)) for role, pinned in roles]
    return tuple(_source(role, model) for role, model in models if model is not None)


def seen_by(hub: Hub) -> Look:
    """Looks with the token that reads, for a plan that nobody publishes."""

    def look(to: Destination) -> bool | None:
        try:
            return hub.open(to.location).pinned.private
        except (InputError, AccessError):  # there is none yet, or none that this token sees
            return None

    return look


def _audience(to: Destination | None, sources: Iterable[Source], *, look: Look) -> Audience:
    """Who could read the result; a repository that is not there yet is made as the request says."""
    if to is None or to.kind == "folder":
        return "folder"
    private = look(to) if any(s.closed for s in sources) else None
    return "private" if (not to.public if private is None else private) else "public"


def _source(role: str, model: Model, *, pickle: bool = False, code: str = "") -> Source:
    pinned = model.pinned
    return Source(
        role=role,
        name=model.files.name,
        owner=pinned.location.partition("/")[0] if pinned.kind == "hub" else "",
        private=pinned.private,
        gated=pinned.gated,
        licenses=card.licenses(card.read(model.files)),
        pickle=pickle,
        remote_code=code,
    )


def _remote_code(found: OpenedBase) -> str:
    config = found.base.config
    if not remote_code.has_model(config):
        return ""
    from bot.merge.model import is_model_class  # noqa: PLC0415 - transformers, for the few that bring code

    return remote_code.needed(config, is_native=is_model_class)


def chosen_sidecars(adapter: Files, *, base: Files) -> tuple[tuple[Sidecar, ...], list[str]]:
    """The small files of the result, none of which names code that transformers does not need; and notes."""
    return without_code(sidecars.choose(adapter, base=base), adapter=adapter, base=base, is_native=_is_class)


def _is_class(name: str) -> bool:
    from bot.merge.model import is_class  # noqa: PLC0415 - transformers, for the few that bring code

    return is_class(name)


def _check_download(opened: Iterable[Opened], found: OpenedBase, *, terms: Terms) -> None:
    base = found.fetched_bytes + sum(each.fetched_bytes for each in opened)
    limits.check(terms.limits, download_bytes=("The merge would fetch", base))
