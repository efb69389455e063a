"""What the people of a GitHub repository may do with the bot's tokens, which are not theirs to have in any case."""

from __future__ import annotations

from dataclasses import dataclass

from bot.config.globs import matches
from bot.errors import InputError
from bot.request import Access, Destination

TRUSTED = frozenset({"write", "maintain", "admin"})  # they could change a workflow, and so use its secrets


@dataclass(frozen=True, kw_only=True)
class Rights:
    """By default an Action's, whose tokens are its repository's own; a service's are its operator's, and shared.

    `trusted`: a role that may push stands for the right to use the tokens. `destinations`: globs of where results may
    go on the Hub; None: anywhere. `forks`: a fork's GitHub PR is planned without being asked for.
    """

    trusted: bool = True
    destinations: tuple[str, ...] | None = None
    forks: bool = True

    def access(self, role: str) -> Access:
        """Whether somebody with this role may read what the tokens read."""
        return "yes" if self.trusted and role in TRUSTED else "unknown"

    def check(self, to: Destination | None, *, repository: str) -> None:
        """Raises InputError for a destination that is not this repository's to name."""
        if to is None or self.destinations is None:
            return
        on_hub = to.kind != "folder"
        if on_hub and any(matches(to.location, glob) for glob in self.destinations):
            return
        allowed = ", ".join(self.destinations)
        raise InputError(
            f"Nothing may be published to {to.location} from {repository}.",
            advice=f"Write --to with one of {allowed}."
            if allowed
            else "Ask whoever runs this bot to name it in the github_rules of its configuration.",
            code="not-your-destination",
        )
