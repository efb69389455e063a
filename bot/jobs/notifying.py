"""Webhooks of the operator's own, told when a job has ended: JSON with `text`, as Slack takes it, and the job."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from bot.config.models import Notify
from bot.errors import MergeBotError
from bot.jobs.order import Entry, page
from bot.publish.outcome_text import title

# https://docs.slack.dev/messaging/formatting-message-text/#escaping: mentions and links are between < and >.
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
log = logging.getLogger("bot.jobs")
Post = Callable[[str, dict[str, Any]], None]


class Notifier:
    """`post` sends a document to a URL; `public_url` is where the pages of jobs are."""

    def __init__(self, table: Sequence[Notify], *, post: Post, public_url: str | None = None) -> None:
        self._table, self._post, self._public_url = tuple(table), post, public_url

    def __call__(self, entry: Entry) -> None:
        """Tells whoever wants to know of such an outcome. One that does not listen is let be: the job has ended."""
        outcome = entry.outcome
        for row in self._table:
            if outcome is None or row.url is None or outcome.ended not in row.on:
                continue
            try:
                self._post(row.url.get_secret_value(), document(entry, public_url=self._public_url))
            except MergeBotError as error:  # without the URL, which is a secret
                log.warning("a notification is not sent: %s", error.sentence)


def document(entry: Entry, *, public_url: str | None = None) -> dict[str, Any]:
    """What is sent: nothing of a plan or a report but where to look."""
    order, outcome = entry.order, entry.outcome
    done = outcome.publication if outcome else None
    failure = outcome.failure if outcome else None
    to = order.request.destination
    return {
        "text": title(order.job, outcome).translate(ENTITIES) if outcome else "",
        "job": {
            "id": order.job.key,
            "verb": order.job.verb,
            "adapter": order.job.what,
            "destination": to.location if to else None,
            "asked_by": order.job.asker or None,
            "outcome": outcome.ended if outcome else None,
            "url": done.url if done else None,
            "commit": done.commit if done else None,
            "code": failure.code if failure else None,
            "page": page(public_url, order.job.key) or None,
        },
    }
