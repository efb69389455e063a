"""Waits on a rented machine for the word of the service that rented it: a label of the job, which the service sets."""

from __future__ import annotations

import time
from contextlib import suppress

from bot.clients.hub_jobs import OWN
from bot.connect import hub_jobs
from bot.errors import HostError
from bot.settings import Settings
from bot.wording import duration

EVERY, PATIENCE = 2.0, 1800.0  # seconds between two looks, and for which it is paid to wait


def wait_for_word(own: str, *, namespace: str | None, settings: Settings) -> None:
    """Returns once the job with this label of its own may publish.

    Raises HostError (`job-unanswered`) where nobody says so.
    """
    jobs, deadline = hub_jobs(settings, namespace=namespace), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(HostError):
            if any(job.allowed and not job.ended for job in jobs.find(own, label=OWN)):
                return
        time.sleep(EVERY)
    raise HostError(
        f"The service did not say within {duration(PATIENCE)} whether this may be published, so it was not.",
        advice="Ask for it again once the service runs.",
        code="job-unanswered",
    )
