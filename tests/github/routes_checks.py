"""How commits stand: check runs, which only Apps may make, and commit statuses."""

from typing import Any

from tests.hub.exchange import Reply

from .access import require
from .exchange import Call, Endpoint, GitHubError, as_json, as_page
from .shapes import Shapes
from .state import now

CONCLUSIONS = ("action_required", "cancelled", "failure", "neutral", "success", "skipped", "timed_out")
STATES = ("error", "failure", "pending", "success")


def runs(call: Call, sha: str) -> Reply:
    """Of each App the newest run of a name, unless all are asked for; newest first."""
    require(call, "checks", "read")
    name, shapes = call.param("check_name"), Shapes(call.state, call.base)
    found = [run for run in call.repo.runs if run["head_sha"] == sha and name in ("", run["name"])]
    if call.param("filter", "latest") == "latest":
        found = list({(run["app"], run["name"]): run for run in found}.values())
    return as_page(call, found[::-1], lambda run: shapes.check_run(call.repo, run), within="check_runs")


def create_run(call: Call) -> Reply:
    _require_app(call)
    with call.state.lock:
        run = _checked({"status": "queued", **call.json()}, call)
        run |= {"id": call.state.new_id(), "app": call.login}
        call.repo.runs.append(run)
    return as_json(Shapes(call.state, call.base).check_run(call.repo, run), 201)


def update_run(call: Call, key: str) -> Reply:
    _require_app(call)
    run = next((run for run in call.repo.runs if run["id"] == int(key)), None)
    if run is None:
        raise GitHubError(404, "Not Found")
    if run["app"] != call.login:
        raise GitHubError(
            403, "Invalid app_id - check run can only be modified by the GitHub App that created it."
        )
    run |= _checked({**run, **call.json()}, call)
    return as_json(Shapes(call.state, call.base).check_run(call.repo, run))


def create_status(call: Call, sha: str) -> Reply:
    require(call, "statuses", "write")
    body = call.json()
    if body.get("state") not in STATES or len(body.get("description") or "") > 140:
        raise GitHubError(422, "Validation Failed")
    _require_commit(call, sha)
    status = {"context": "default", **body, "id": call.state.new_id(), "sha": sha, "created_at": now()}
    status["creator"] = call.login
    call.repo.statuses.append(status)
    return as_json(Shapes(call.state, call.base).status(call.repo, status), 201)


def _require_app(call: Call) -> None:
    if call.token and call.token.kind == "personal":
        raise GitHubError(403, "You must authenticate via a GitHub App.")
    require(call, "checks", "write")


def _checked(run: dict[str, Any], call: Call) -> dict[str, Any]:
    """A conclusion completes a run; it has one when it is completed, and only then."""
    _require_commit(call, run.get("head_sha", ""))
    concluded = run.get("conclusion")
    done = run["status"] == "completed"
    if not run.get("name") or done != (concluded is not None) or (done and concluded not in CONCLUSIONS):
        raise GitHubError(422, "Invalid request.")
    run["started_at"] = run.get("started_at") or now()
    run["completed_at"] = now() if done else None
    return run


def _require_commit(call: Call, sha: str) -> None:
    if sha not in call.repo.objects.commits:
        raise GitHubError(422, f"No commit found for SHA: {sha}")


ROUTES: list[Endpoint] = [
    ("GET", "/commits/{sha}/check-runs", runs),
    ("POST", "/check-runs", create_run),
    ("PATCH", "/check-runs/{key:\\d+}", update_run),
    ("POST", "/statuses/{sha}", create_status),
]
