"""A push to a watched repository as orders, for webhooks and for polling."""

from __future__ import annotations

from bot.config.models import Config
from bot.doors import pushed
from bot.jobs.order import Order, Origin
from bot.settings import Settings
from bot.trigger.hub import Ignored


def orders(
    repo_id: str, commit: str, *, before: str | None = None, config: Config, settings: Settings
) -> tuple[Order, ...] | Ignored:
    """An order for each adapter that the commit holds; with `before`, if it changed since. Or why there is none.

    Raises InputError for a merge-bot.yml that is wrong, AccessError or HostError where the Hub does not let us look.
    """
    found = pushed.tasks(repo_id, commit, before=before, config=config, settings=settings)
    if isinstance(found, Ignored):
        return found
    origin = Origin(host="watch", repository=repo_id)
    return tuple(
        Order(job=task.job, request=task.request, origin=origin, runner=task.runner) for task in found
    )
