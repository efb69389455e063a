"""How a job ended, as GitHub-flavoured Markdown: what comments, checks and the page of a run have in common."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from urllib.parse import quote

from bot.diagnosis import Candidate, Diagnosis, Finding
from bot.job import Failure, Job, Outcome
from bot.publish.escape import code, no_paths, plain, without_paths
from bot.publish.model_card import checks, source
from bot.publish.pictures import pictures
from bot.records import Plan, Publication
from bot.wording import counted, duration, peft_type, precision, size

MOST_FINDINGS = 20
OPEN = 2  # pictures that are not folded
# What to add to a workflow, by the code of the error that says that it is missing.
BLOCKS = {
    "no-token": (
        "permissions:",
        "  id-token: write # with a Trusted Publisher of the Hub repository",
        "# or",
        "with:",
        "  hf-token: ${{ secrets.HF_TOKEN }}",
    ),
    "no-trusted-publisher": ("with:", "  hf-token: ${{ secrets.HF_TOKEN }}"),
    "github-permission": (
        "permissions:",
        "  contents: read",
        "  issues: write",
        "  pull-requests: write",
        "  checks: write",
    ),
}
BLOCKS["forbidden"] = BLOCKS["bad-token"] = BLOCKS["no-trusted-publisher"]


def title(job: Job, outcome: Outcome) -> str:
    """One plain line without markup, for checks and outputs."""
    failure = outcome.failure
    if failure is not None:
        return no_paths(failure.sentence)
    if outcome.publication is not None:
        done = "was published before" if outcome.publication.existed else "published"
        return f"{job.what} {done}: {outcome.publication.url}"
    if outcome.diagnosis is not None and outcome.plan is None:
        return f"{job.what}: {_diagnosed(outcome.diagnosis)}"
    if outcome.report is not None:
        return f"{job.what} was merged and checked ({outcome.report.verdict}); nothing was published"
    return f"{job.what} can be merged" if outcome.plan is not None else f"{job.what}: nothing to do"


def asked(job: Job) -> str:
    """Who asked for it and how, at which commit, and where its log is."""
    by = f" by {plain(job.asked_by)}" if job.asked_by else ""
    parts = [f"Asked{by}: {code(job.ask)}" if job.ask else "Started by an event"]
    parts += [f"at commit {job.head_sha[:12]}"] if job.head_sha else []
    log = f" [Log]({job.url})" if job.url else ""
    return f"{', '.join(parts)}.{log}"


def result(job: Job, outcome: Outcome, *, endpoint: str, workflow: bool = True) -> list[str]:
    """The whole answer: heading, why not, what was found, planned and checked, pictures, cost, how to undo it."""
    lines = [f"### {_heading(job, outcome)}", ""]
    if outcome.failure is not None:
        lines += [*_failed(outcome.failure, workflow=workflow), ""]
    found = _findings(outcome.diagnosis) if outcome.diagnosis is not None else []
    planned = _planned(outcome.plan, job, endpoint) if outcome.plan is not None else []
    lines += [*found, *planned, ""]  # one list: with an empty line in it, all of it would be shown far apart
    if outcome.report is not None and outcome.plan is not None:
        lines += [*_checked(outcome), ""]
    lines += [*_shown(outcome, endpoint), *_cost(outcome), "", *_undo(outcome, endpoint), asked(job)]
    return [line for before, line in pairwise(["", *lines]) if line or before]  # no two empty ones


def _heading(job: Job, outcome: Outcome) -> str:
    publication, failure = outcome.publication, outcome.failure
    if failure is not None:
        return {"refused": "Refused", "failed": "Failed"}.get(
            outcome.ended, "Stopped"
        ) + f": {code(job.what)}"
    if publication is not None:
        return f"{_done(publication)}: {_link(publication)}"
    if outcome.diagnosis is not None and outcome.plan is None:
        return f"{code(job.what)}: {_diagnosed(outcome.diagnosis)}"
    if outcome.report is not None:
        return f"Merged and checked, and not published: {code(job.what)}"
    return (
        f"{code(job.what)} can be merged" if outcome.plan is not None else f"Nothing to do: {code(job.what)}"
    )


def _done(publication: Publication) -> str:
    if publication.existed:
        return "Published by an earlier run"
    return "Hub PR opened" if publication.destination.kind == "hub_pr" else "Published"


def _link(publication: Publication) -> str:
    number = f" Hub PR {publication.number}" if publication.number else ""
    if publication.destination.kind == "folder":
        return "into a folder of the runner"
    return f"[{plain(publication.destination.location)}{number}]({publication.url})"


def _failed(failure: Failure, *, workflow: bool) -> list[str]:
    lines = [
        f"{plain(no_paths(failure.sentence))} ({code(failure.code)})",
        "",
        f"**What to do:** {plain(no_paths(failure.advice))}",
    ]
    block = BLOCKS.get(failure.code, ()) if workflow else ()
    return [*lines, *(["", "```yaml", *block, "```"] if block else [])]


def _diagnosed(found: Diagnosis) -> str:
    return {"fine": "nothing is wrong", "repairable": "can be repaired", "refused": "cannot be merged"}[
        found.verdict
    ]


def _findings(found: Diagnosis) -> list[str]:
    shown = [finding for finding in found.findings if finding.kind != "inert"]
    lines = [_finding(finding) for finding in shown[:MOST_FINDINGS]]
    left = len(shown) - MOST_FINDINGS
    lines += [f"- {left} more of this kind."] if left > 0 else []
    lines += [_base(candidate) for candidate in found.base if candidate.commit]
    return lines or ["- The configuration is as PEFT wants it."]


def _base(found: Candidate) -> str:
    fits = {None: "", True: "; its shapes fit", False: "; its shapes do not fit"}[found.fits]
    return f"- Base: {plain(found.name)}, named by {plain(found.named_by)}{fits}"


def _finding(finding: Finding) -> str:
    what = f"{code(finding.key)}: " if finding.key else ""
    advice = f" {plain(no_paths(finding.advice))}" if finding.advice else ""
    done = {"repair": "is repaired", "refusal": "refused"}.get(finding.kind, finding.kind)
    return f"- {what}{done}, {plain(no_paths(finding.reason)).rstrip('.')}.{advice}"


def _planned(plan: Plan, job: Job, endpoint: str) -> list[str]:
    on_hub = [source(place, endpoint=endpoint) for place in plan.adapters if place.kind == "hub"]
    adapters = ", ".join(on_hub) or code(job.what)
    base = source(plan.base, endpoint=endpoint)
    lines = [
        f"- {plain(peft_type(plan.peft_type))} adapter {adapters} into {base}",
        f"- {counted(len(plan.bindings), 'tensor')} changed, {len(plan.added):,} added; {plain(precision(plan))}",
        f"- To fetch: {size(plan.estimate.download_bytes)}; to write: {size(plan.estimate.output_bytes)}",
    ]
    repairs = [patch for patch in plan.patches if not patch.inert]
    lines += [
        f"- {code(p.key)} is repaired before merging: {plain(without_paths(p.reason, plan))}"
        for p in repairs[:MOST_FINDINGS]
    ]
    return lines + [f"- Note: {plain(without_paths(note, plan))}" for note in plan.notes[:MOST_FINDINGS]]


def _checked(outcome: Outcome) -> Iterator[str]:
    """The table of checks, folded where all is well."""
    report, plan = outcome.report, outcome.plan
    if report is None or plan is None:
        return
    verdict, *table = checks(report, plan=plan)
    if report.verdict != "passed":
        yield from [verdict, *table]
        return
    yield from [verdict, "", "<details><summary>The checks</summary>", *table, "", "</details>"]


def _shown(outcome: Outcome, endpoint: str) -> list[str]:
    """The report's pictures, out of the published repository, where everybody can see it."""
    publication, report, plan = outcome.publication, outcome.report, outcome.plan
    if publication is None or report is None or plan is None or not outcome.public or not publication.commit:
        return []
    place = f"{endpoint}/{quote(publication.destination.location)}/resolve/{quote(publication.commit)}"
    shown = [
        f"![{plain(without_paths(picture.alt, plan))}]({place}/{quote(picture.path)})"
        for picture in pictures(report.evidence)
    ]
    spaced = [line for picture in shown for line in (picture, "")]
    if len(shown) <= OPEN:
        return spaced
    first, rest = spaced[: 2 * OPEN], spaced[2 * OPEN :]
    return [*first, "<details><summary>More pictures</summary>", "", *rest, "</details>", ""]


def _cost(outcome: Outcome) -> list[str]:
    if not outcome.seconds:
        return []
    device = f" on {plain(outcome.report.device)}" if outcome.report is not None else ""
    cost = f", at a cost of {outcome.cost:,} (by `MERGE_BOT_COST_PER_GB`)" if outcome.cost is not None else ""
    bill = outcome.bill
    rent = f" A rented {plain(bill.machine)} cost ${bill.dollars:.2f}." if bill is not None else ""
    return [f"It took {duration(outcome.seconds)}{device}{cost}.{rent}"]


def _undo(outcome: Outcome, endpoint: str) -> list[str]:
    publication = outcome.publication
    if publication is None or publication.destination.kind == "folder":
        return []
    if publication.destination.kind == "hub_pr":
        return [f"**To undo it**, close [the Hub PR]({publication.url}): nothing else was changed.", ""]
    place = f"{endpoint}/{quote(publication.destination.location)}"
    settings, history = f"[settings]({place}/settings)", f"[history]({place}/commits/main)"
    how = f"delete the repository in its {settings} or, if it was there before, go back in its {history}"
    return [f"**To undo it**, {how}. Adapter and base were not changed.", ""]
