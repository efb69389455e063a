"""Why a job on the Hub has ended without a word of its own: what is seen of it from outside, as one of our errors."""

from __future__ import annotations

import re

from bot.clients.hub_jobs import HubJob
from bot.errors import HostError, MergeBotError, MergeError, RefusedError, StoppedError
from bot.wording import duration

# The Hub words these as Kubernetes does. https://kubernetes.io/docs/concepts/containers/images/#imagepullbackoff
IMAGE = re.compile(r"ImagePull|ErrImage|InvalidImageName|image", re.IGNORECASE)
MEMORY = re.compile(r"OOM|out of memory|\b137\b", re.IGNORECASE)
TIME = re.compile(r"time[d -]?\s?out|deadline", re.IGNORECASE)


def reason(job: HubJob, *, late: bool, paid: float | None) -> MergeBotError:
    """`late`: we have ended it, as its time was over. `paid`: the US dollars that it may cost, if it has."""
    if late or (job.stage == "ERROR" and TIME.search(job.message)):
        return _too_long(job, paid=paid)
    if job.stage == "CANCELED":
        return StoppedError(
            f"The job {job.url} was cancelled on the Hub.",
            advice="Ask for it again if that was a mistake.",
            code="job-cancelled",
        )
    if job.stage == "ERROR" and MEMORY.search(job.message):
        return MergeError(
            f"The job {job.url} ran out of memory on {job.flavor}.",
            advice="Allow only machines with more memory in hf_jobs.flavors.",
            code="job-memory",
        )
    if job.stage == "ERROR" and not job.seconds and IMAGE.search(job.message):
        return MergeError(
            f"The Hub could not start the job {job.url}: its image could not be fetched{_said(job)}.",
            advice="Check hf_jobs.image: its name and tag, and that everybody may pull it.",
            code="job-image",
        )
    if job.stage == "ERROR":
        return MergeError(
            f"The job {job.url} failed{_said(job)}.",
            advice="Look at the end of its log.",
            code="job-failed",
        )
    return HostError(
        f"The job {job.url} is {job.stage.lower()}, and there is nothing that it has left.",
        advice="Ask for it again.",
        code="job-lost",
    )


def _too_long(job: HubJob, *, paid: float | None) -> MergeBotError:
    took = duration(job.seconds or 0)
    if paid is not None:
        return RefusedError(
            f"The job {job.url} was ended after {took}, when it had cost the ${paid:.2f} that are allowed.",
            advice="Raise the maximum cost (hf_jobs.max_cost), or ask for fewer checks with --validate.",
            code="job-cost",
        )
    return MergeError(
        f"The job {job.url} was not done in {took}, and was ended.",
        advice="Raise hf_jobs.hours, or allow faster machines in hf_jobs.flavors.",
        code="job-timeout",
    )


def _said(job: HubJob) -> str:
    text = " ".join(job.message.split())[:200].rstrip(".")
    return f" ({text})" if text else ""
