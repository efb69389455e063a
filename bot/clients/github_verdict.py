"""How a commit stands, said on GitHub: a check run, or a commit status where the token may not make one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from bot.clients.github_api import Api, nothing
from bot.errors import AccessError, InputError
from bot.forge import State

CHECKS, STATUSES = "checks: write", "statuses: write"
OURS = "adapter-merge-bot"
RUNNING = frozenset({"queued", "in_progress"})
# A commit status knows fewer words; neutral is no reason to hold anybody up.
STATUS = {"queued": "pending", "in_progress": "pending", "neutral": "success"}
LONGEST = 140  # characters of a commit status


def say(  # what a check run shows
    api: Api, sha: str, *, name: str, state: State, title: str, summary: str, url: str | None
) -> str | None:
    """None when it was said, else the sentence that tells what is missing: a permission, or the commit."""
    run: dict[str, Any] = {"name": name, "external_id": f"{OURS}:{name}", **_standing(state)}
    run |= {"output": {"title": title, "summary": summary}, **({"details_url": url} if url else {})}
    try:
        _check_run(api, sha, run)
    except (AccessError, InputError) as refused:  # InputError: the commit is gone, after a force-push
        if refused.code == "github-bad-token":
            raise
        if not _status(api, sha, name=name, state=state, title=title, url=url):
            return f"{refused.sentence} {refused.advice}"
    return None


def _check_run(api: Api, sha: str, run: dict[str, Any]) -> None:
    """A run that was completed stays as it is: what begins anew is another one."""
    what = "set the check run"
    found = _ours(api, sha, run)
    if found and (found["status"] != "completed" or run["status"] == "completed"):
        api.ask("PATCH", f"check-runs/{found['id']:d}", what=what, read=nothing, needs=CHECKS, body=run)
    else:
        api.ask("POST", "check-runs", what=what, read=nothing, needs=CHECKS, body={**run, "head_sha": sha})


def _ours(api: Api, sha: str, run: dict[str, Any]) -> dict[str, Any] | None:
    """The newest of our runs of that name: jobs of a workflow may have the same name, and are not ours."""
    runs = api.pages(
        f"commits/{quote(sha, safe='')}/check-runs",
        what="look for the check run",
        read=_facts,
        needs=CHECKS,
        within="check_runs",
        check_name=run["name"],
        filter="all",  # the newest of a name may be a job of the workflow
    )
    ours = [one for one in runs if one["external_id"] == run["external_id"]]
    return max(ours, key=lambda one: int(one["id"]), default=None)


def _facts(answer: Any) -> dict[str, Any]:
    return {"id": int(answer["id"]), "status": answer["status"], "external_id": answer.get("external_id")}


def _standing(state: State) -> dict[str, str]:
    return {"status": state} if state in RUNNING else {"status": "completed", "conclusion": state}


def _status(api: Api, sha: str, *, name: str, state: State, title: str, url: str | None) -> bool:
    """Whether a commit status could be set."""
    body = {"state": STATUS.get(state, state), "context": name, "description": title[:LONGEST]}
    body |= {"target_url": url} if url else {}
    try:
        api.ask(
            "POST",
            f"statuses/{quote(sha, safe='')}",
            what="set the commit status",
            read=nothing,
            needs=STATUSES,
            body=body,
        )
    except (AccessError, InputError):
        return False
    return True
