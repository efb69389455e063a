"""Who looks at the pages, what they see, and what they may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from bot.job import OPERATOR
from bot.jobs.order import Entry, Order
from bot.request import Access
from bot.serve.pages.site import Site
from bot.trigger.command import Command, Misread


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Who looks: a Hub user by `name`, an operator, or a stranger, who is neither.

    `orgs` are the organisations that a user is in, `writes` those of them where they may write to every repository.
    """

    name: str = ""
    orgs: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    operator: bool = False

    @property
    def known(self) -> bool:
        """Whether they have signed in."""
        return self.operator or bool(self.name)

    @property
    def id(self) -> str:
        """Who they are in orders and keys: nobody else's name, whoever signs in."""
        return self.name or OPERATOR

    @property
    def called(self) -> str:
        """What they are called in logs."""
        return self.name or "the operator"

    @property
    def belongs(self) -> frozenset[str]:
        """Under which names the list of askers may have them, in lower case, as the Hub compares."""
        return frozenset(name.casefold() for name in (self.name, *self.orgs) if name)

    def publishes(self, owner: str) -> bool:
        """Whether the Hub would let them write to whatever lies below this name."""
        home = frozenset(name.casefold() for name in (self.name, *self.writes) if name)
        return self.operator or owner.casefold() in home


def is_operator(id_: str, site: Site) -> bool:
    """Whether this is an operator by what an order calls them."""
    return id_ == OPERATOR or (bool(id_) and id_.casefold() in {name.casefold() for name in site.operators})


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
    return viewer.operator or any(fnmatchcase(name, glob) for name in viewer.belongs for glob in globs)


def may_repeat(viewer: Viewer, entry: Entry, site: Site) -> bool:
    """Whether they may have it done once more: it is theirs, and they might still ask for it, there or here."""
    origin, to = entry.order.origin, entry.order.request.destination
    owner = origin.repository.partition("/")[0].casefold()
    asks = may_ask(viewer, site) or (origin.host == "hub" and owner == viewer.name.casefold())
    open_ = origin.host != "page" or to is None or viewer.publishes(to.location.partition("/")[0])
    return viewer.operator or (owns(viewer, entry) and asks and open_)


def as_of_now(order: Order, site: Site) -> Order:
    """The order, if it was given here, with what whoever gave it may read today."""
    access: Access = "yes" if is_operator(order.job.asked_by, site) else "unknown"
    if order.origin.host != "page" or order.request.requester_access == access:
        return order
    return replace(order, request=replace(order.request, requester_access=access))


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
    if viewer.publishes(owner):
        return None
    return Misread(
        sentence=f"{owner} is neither you nor an organisation where your role is write or admin.",
        advice="Choose a repository of your own, or sign in again if your role is new.",
    )
