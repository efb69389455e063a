"""Who looks at the pages, what they see, and what they may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from bot.jobs.order import Entry
from bot.serve.pages.site import Site
from bot.trigger.command import Command, Misread


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Who looks: a Hub user by `name` with their organisations, an operator, or a stranger, who is neither."""

    name: str = ""
    orgs: tuple[str, ...] = ()
    operator: bool = False

    @property
    def known(self) -> bool:
        """Whether they have signed in."""
        return self.operator or bool(self.name)

    @property
    def called(self) -> str:
        """What they are called in logs."""
        return self.name or "operator"

    @property
    def namespaces(self) -> frozenset[str]:
        """Where on the Hub they are at home, in lower case, as the Hub compares."""
        return frozenset(name.casefold() for name in (self.name, *self.orgs) if name)


def may_look(viewer: Viewer, site: Site) -> bool:
    """Whether there is anything here for them."""
    return viewer.known or site.strangers == "read-only"


def owns(viewer: Viewer, entry: Entry) -> bool:
    """Whether they have asked for it, or may everything. A GitHub user of the same name is somebody else."""
    same = bool(viewer.name) and entry.order.job.asked_by.casefold() == viewer.name.casefold()
    return viewer.operator or (same and entry.order.origin.host in {"hub", "page"})


def sees(viewer: Viewer, entry: Entry) -> bool:
    """Whether they may know of the job: it is theirs, or its result lies open on the Hub, with a card that says all."""
    outcome = entry.outcome
    return owns(viewer, entry) or (outcome is not None and outcome.public and outcome.publication is not None)


def may_ask(viewer: Viewer, site: Site) -> bool:
    """Whether they may have the service work for them."""
    globs = [glob.casefold() for glob in site.askers]
    return viewer.operator or any(fnmatchcase(name, glob) for name in viewer.namespaces for glob in globs)


def may_repeat(viewer: Viewer, entry: Entry, site: Site) -> bool:
    """Whether they may have it done once more: what was asked for here, only while they are on the list."""
    return owns(viewer, entry) and (entry.order.origin.host != "page" or may_ask(viewer, site))


def objection(command: Command, *, viewer: Viewer) -> Misread | None:
    """Why this is not for them to ask: the bot's token writes in many places, and they may in few."""
    if command.folder or command.head:
        return Misread(
            sentence="--folder and --head are for commands under a GitHub PR.",
            advice="Name an adapter on the Hub.",
        )
    if not command.adapters:
        return Misread(sentence="Nothing says which adapter.", advice="Write owner/name.")
    if command.verb != "merge" or command.dry_run:
        return None
    if not command.to:
        return Misread(
            sentence="Nothing says where the merged model goes.", advice="Write owner/name as its repository."
        )
    owner = command.to.partition("/")[0]
    if viewer.operator or owner.casefold() in viewer.namespaces:
        return None
    return Misread(
        sentence=f"{owner} is neither you nor an organisation of yours.",
        advice="Choose a repository of your own, or of an organisation that you are in.",
    )
