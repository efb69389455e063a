"""The repository that is published to: what it holds, whose it is, and whether it may be written to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from huggingface_hub import HfApi, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils._headers import build_hf_headers

from bot.clients.http import retrying
from bot.errors import AccessError, InputError, RefusedError
from bot.records import Plan
from bot.request import Destination

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CARD = "README.md"
PLACEHOLDERS = frozenset({".gitattributes", CARD})  # what a repository has that was made on the website
ADAPTER_FILE = re.compile(
    r"adapter_config\.json|adapter_model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A repository at the commit that it had when it was looked at; `card` is its README.md."""

    id: str
    head: str
    private: bool
    files: frozenset[str]
    card: str = ""
    weights: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        """Whether all weight files that it lists are there."""
        return bool(self.weights) and self.weights <= self.files


def look(api: HfApi, repo_id: str, *, attempts: int) -> Target | None:
    """The repository as it is now; None when the token's owner sees none. Raises the client's errors."""
    try:
        info = retrying(lambda: api.model_info(repo_id), attempts=attempts)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        return None
    files = frozenset(sibling.rfilename for sibling in info.siblings or [])
    head = info.sha or ""

    def text(name: str) -> str:
        return _text(api, info.id, name, head, attempts) if name in files else ""

    single = frozenset({SINGLE}) & files
    return Target(
        id=info.id,
        head=head,
        private=bool(info.private),
        files=files,
        card=text(CARD),
        weights=single | _mapped(text(INDEX)),
    )


def is_own(target_id: str, plan: Plan) -> bool:
    """Whether the repository is the one that the adapter comes from (the Hub does not tell names by case)."""
    return any(a.kind == "hub" and a.location.casefold() == target_id.casefold() for a in plan.adapters)


def restricted(plan: Plan) -> bool:
    """Whether the base or the adapter is not for everybody."""
    return any(place.private or place.gated for place in plan.sources)


def refuse_wider(destination: Destination, plan: Plan, *, private: bool) -> None:
    """Raises RefusedError when a merge of something private or gated would be read by everybody."""
    if not restricted(plan) or private:
        return
    closed = [a.location for a in plan.adapters if a.private or a.gated]
    adapter = "adapter" if len(plan.adapters) == 1 else f"adapter {closed[0]}" if closed else ""
    what = "base model" if plan.base.private or plan.base.gated else adapter
    raise RefusedError(
        f"The {what} is private or gated, and {destination.location} would be readable by everybody.",
        advice="Publish to a private repository of your own: --to owner/name without --public and --pr.",
        code="wider-than-base",
    )


def refuse(destination: Destination, target: Target | None, plan: Plan, *, ours: bool) -> None:
    """Raises RefusedError or InputError where nothing is to be published; `target` is what is there, if anything."""
    refuse_own(destination, plan, target_id=target.id if target else destination.location)
    refuse_wider(destination, plan, private=target.private if target else not destination.public)
    if target is None and destination.kind == "hub_pr":
        raise InputError(
            f"There is no repository {destination.location} to open a Hub PR on.",
            advice="Check its spelling, or leave out --pr to create a repository.",
            code="not-found",
        )
    if target is not None:
        refuse_occupied(destination, target, ours=ours)


def without_token(destination: Destination) -> AccessError:
    """Nothing is published without one."""
    return AccessError(
        f"Publishing to {destination.location} needs a token, and none is set.",
        advice="Set MERGE_BOT_WRITE_TOKEN or HF_TOKEN to a token with write permission.",
        code="no-token",
    )


def refuse_own(destination: Destination, plan: Plan, *, target_id: str) -> None:
    """Raises RefusedError when the adapter's own repository would be overwritten without its owner's look at it."""
    if destination.kind == "repository" and is_own(target_id, plan):
        raise RefusedError(
            f"{destination.location} is the adapter's own repository.",
            advice="Add --pr to propose the merged model there as a pull request, or choose another repository.",
            code="destination-exists",
        )


def refuse_occupied(destination: Destination, target: Target, *, ours: bool) -> None:
    """Raises RefusedError when a repository holds what we did not write."""
    if destination.kind == "repository" and not ours and not target.files <= PLACEHOLDERS:
        foreign = min(target.files - PLACEHOLDERS)
        raise RefusedError(
            f"{destination.location} exists and holds {foreign}, which this bot did not write.",
            advice="Choose another repository, or add --pr to propose the merged model there as a pull request.",
            code="destination-exists",
        )


def shadow(left: Iterable[str], *, added: Iterable[str]) -> str | None:
    """The file that stays (`left`) and would be loaded over the merged weights, or in their place; None without one.

    transformers takes model.safetensors before an index, and applies an adapter_config.json that lies beside weights.
    """
    names, new = set(left), set(added)
    if SINGLE in names and INDEX in new:
        return SINGLE
    return next((name for name in sorted(names) if ADAPTER_FILE.fullmatch(name)), None)


def refuse_shadowed(target: Target, *, left: Iterable[str], added: Iterable[str]) -> None:
    """Raises RefusedError when a file that stays would be loaded over the merged weights, or in their place."""
    if found := shadow(left, added=added):
        raise RefusedError(
            f"{target.id} holds {found}, which would be loaded with the merged weights or in their place.",
            advice="Choose another repository.",
            code="destination-exists",
        )


def _text(api: HfApi, repo_id: str, name: str, revision: str, attempts: int) -> str:
    """A small text file, read without leaving a copy in the cache."""
    url = hf_hub_url(repo_id, name, revision=revision, endpoint=api.endpoint)

    def read() -> str:
        response = get_session().get(url, headers=build_hf_headers(token=api.token))
        hf_raise_for_status(response)
        return response.content.decode("utf-8", errors="replace")

    return retrying(read, attempts=attempts)


def _mapped(index: str) -> frozenset[str]:
    """The files that an index lists; none when it is no index."""
    try:
        names = json.loads(index)["weight_map"].values()
        return frozenset(name for name in names if isinstance(name, str))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return frozenset()
