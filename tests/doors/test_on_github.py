"""The step under a real GitHub PR of the fake GitHub, through the real client: from the comment to the check run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bot.publish.marker import find_job
from tests.clients.github_fixtures import clock
from tests.e2e import ADAPTER, BASE, desk, hub, models, processes, wait_for
from tests.github.server import FakeGitHub

__all__ = ["clock", "desk", "hub", "models", "processes"]
REPOSITORY = "acme/adapters"
HERE = Path(__file__).parents[2]


@pytest.fixture
def github(desk, clock, tmp_path):
    """A repository with a GitHub PR by bob that adds an adapter folder; alice may write there."""
    with FakeGitHub() as made:
        made.add_repo(REPOSITORY, roles={"alice": "write"})
        folder = desk.adapter("mine", base=BASE)
        files = {f"adapters/mine/{p.name}": p.read_bytes() for p in folder.iterdir() if p.is_file()}
        made.open_pull(REPOSITORY, files, author="bob", lfs=(".safetensors",))
        desk.set(
            GITHUB_API_URL=made.url,
            GITHUB_REPOSITORY=REPOSITORY,
            GITHUB_RUN_ID="77",
            GITHUB_OUTPUT=str(tmp_path / "output"),
            GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"),
            RUNNER_TEMP=str(tmp_path),
            INPUT_VALIDATE="structure",
            INPUT_GITHUB_TOKEN=made.workflow_token(REPOSITORY),
        )
        yield made


@pytest.fixture
def happens(desk, tmp_path):
    """Runs the step for an event."""

    def happens(event, payload):
        path = tmp_path / "event.json"
        path.write_text(json.dumps(payload))
        desk.set(GITHUB_EVENT_NAME=event, GITHUB_EVENT_PATH=str(path))
        return desk("action")

    return happens


def pull(github):
    return github.state.repos[REPOSITORY].pulls[1]


@pytest.fixture
def command(github, happens):
    """Somebody comments; gives the answer, and what the bot has said."""

    def command(body, *, by="alice"):
        said = github.say(REPOSITORY, 1, body, author=by)
        comment = {
            "id": said.id,
            "body": body,
            "html_url": "https://x",
            "user": {"login": by, "type": "User"},
        }
        issue = {"number": 1, "title": "Add", "body": "", "pull_request": {"url": "x"}}
        answer = happens("issue_comment", {"action": "created", "issue": issue, "comment": comment})
        reactions = [content for _, content in said.reactions.values()]
        return answer, ours(github), reactions

    return command


def ours(github, *, by="github-actions[bot]"):
    return [c.body for c in github.comments(REPOSITORY) if c.author == by]


def test_a_command_publishes_the_folder_of_the_pr(github, command, desk):
    answer, said, reactions = command("/merge --to alice/hub-1")
    assert answer.code == 0, answer.err
    assert reactions == ["eyes", "rocket"]
    assert len(said) == 1
    assert find_job(said[0]).state == "published"
    (run,) = github.state.repos[REPOSITORY].runs
    assert (run["head_sha"], run["conclusion"]) == (pull(github).head_sha, "success")
    assert "model.safetensors" in desk.hub.files("alice/hub-1")


@pytest.mark.slow
def test_an_app_knows_its_own_comments_again(github, command, desk):
    """`github-token` from actions/create-github-app-token: the second command finds what the first has said."""
    desk.set(INPUT_GITHUB_TOKEN=github.app_token("acme-merger", REPOSITORY))
    command("/merge plan alice/none")
    command("/merge retry")
    command("/merge status")
    job, notice = ours(github, by="acme-merger[bot]")
    assert find_job(job).state == "failed"
    assert "has ended: failed" in notice


@pytest.mark.parametrize("at", ["head", "before"])
def test_a_command_at_a_line_of_code_is_for_the_commit_that_was_commented_on(github, happens, at):
    head = pull(github).head_sha
    if at == "before":
        github.commit(REPOSITORY, {"README.md": "pushed since"}, branch=pull(github).head_ref)
    said = github.say(REPOSITORY, 1, "/merge doctor alice/none", author="alice", kind="review")
    comment = {"id": said.id, "body": said.body, "user": {"login": "alice", "type": "User"}}
    there = {"number": 1, "title": "Add", "body": "", "head": {"sha": head}}
    happens("pull_request_review_comment", {"action": "created", "pull_request": there, "comment": comment})
    (body,) = ours(github)
    assert ("nothing was published" in body) == (at == "before")
    assert [content for _, content in said.reactions.values()] == ["eyes", "confused"]


def test_a_changed_pr_is_examined(github, happens):
    payload = {"action": "opened", "pull_request": {"number": 1, "head": {"sha": pull(github).head_sha}}}
    assert happens("pull_request", payload).code == 0
    assert "can be merged" in ours(github)[0]


def test_a_fork_whose_event_may_only_read_is_examined_and_the_step_says_what_lacks(github, happens, desk):
    desk.set(
        INPUT_GITHUB_TOKEN=github.workflow_token(REPOSITORY, {"contents": "read", "pull_requests": "read"})
    )
    payload = {"action": "opened", "pull_request": {"number": 1, "head": {"sha": pull(github).head_sha}}}
    answer = happens("pull_request", payload)
    assert answer.code == 0, answer.err
    assert ours(github) == []
    assert "::warning" in answer.out
    assert "pull-requests: write" in answer.out


def test_somebody_without_permission_is_declined(github, command, desk):
    before = desk.state()
    answer, said, reactions = command(f"/merge {ADAPTER} --to alice/hub-2", by="eve")
    assert (answer.code, reactions) == (0, ["eyes", "confused"])
    assert "take the role write" in said[0]
    assert desk.state() == before


@pytest.mark.parametrize("status", [403, 429, 502])
def test_a_github_that_answers_so_starts_nothing_and_says_so(github, command, desk, status):
    github.fault("/permission", status=status)
    before = desk.state()
    answer, said, _ = command(f"/merge {ADAPTER} --to alice/hub-3")
    assert answer.code in {4, 5}
    assert answer.out.startswith("::error title=adapter-merge-bot::")
    assert said == []
    assert desk.state() == before


def test_a_push_between_command_and_publication_stops_it(github, command, desk):
    before = desk.state()
    first = github.state.repos[REPOSITORY].pulls[1].head_sha
    moved = github.commit(REPOSITORY, {"README.md": "x"}, branch="elsewhere")
    answer, said, _ = command(f"/merge {ADAPTER} --to alice/hub-4 --head {moved[:12]}")
    assert answer.code == 3
    assert first[:12] in said[0]
    assert desk.state() == before


@pytest.mark.slow
def test_the_last_word_outlasts_a_github_that_is_down(github, command):
    github.fault(
        "/issues/comments/", method="PATCH", status=502, times=7
    )  # two rounds of the client's own tries
    _, said, _ = command("/merge plan alice/none")
    (body,) = said
    assert find_job(body).state == "failed"
    assert "Trying again in 5 seconds" not in body


def push(github, said):
    github.commit(REPOSITORY, {"README.md": "pushed since"}, branch=pull(github).head_ref)


def close(github, said):
    github.close_pull(REPOSITORY, 1)


def take_back(github, said):
    del github.state.repos[REPOSITORY].comments[said.id]


def delete_the_answer(github, said):
    (answer,) = [c for c in github.comments(REPOSITORY) if c.author == "github-actions[bot]"]
    del github.state.repos[REPOSITORY].comments[answer.id]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens_then", "code", "word"),
    [
        (push, 3, "was"),
        (close, 0, "was closed meanwhile"),
        (take_back, 0, "was deleted"),
        (delete_the_answer, 0, ""),
    ],
)
def test_what_happens_while_it_works_stops_the_publication(
    github, command, desk, tmp_path, happens_then, code, word
):
    before = desk.state()

    def meanwhile():
        wait_for(lambda: ours(github))
        (said,) = [c for c in github.comments(REPOSITORY) if c.author == "alice"]
        happens_then(github, said)

    threading.Thread(target=meanwhile, daemon=True).start()
    answer, said, _ = command(f"/merge {ADAPTER} --to alice/hub-6")
    assert answer.code == code, answer.err
    assert all(word in text and "nothing was published" in text for text in said)
    assert bool(said) == (happens_then is not delete_the_answer)
    assert "outcome" in (tmp_path / "output").read_text()
    assert desk.state() == before


@pytest.mark.slow
def test_a_cancelled_run_says_so_and_leaves_nothing(github, desk, tmp_path):
    """As GitHub cancels: a signal to the process, which has seconds to tidy up."""
    desk.apart()
    desk.hub.fault("/blobs/", hang=60.0)
    said = github.say(REPOSITORY, 1, f"/merge {ADAPTER} --to alice/hub-5", author="alice")
    event = {
        "action": "created",
        "issue": {"number": 1, "pull_request": {}},
        "comment": {"id": said.id, "body": said.body, "user": {"login": "alice", "type": "User"}},
    }
    (tmp_path / "event.json").write_text(json.dumps(event))
    desk.set(GITHUB_EVENT_NAME="issue_comment", GITHUB_EVENT_PATH=str(tmp_path / "event.json"))
    desk.set(HF_HOME=str(tmp_path / "home"))
    before = desk.state()
    run = subprocess.Popen(
        [sys.executable, "-m", "bot", "action"], cwd=HERE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: any(r.path.startswith("/blobs/") for r in desk.hub.requests) or run.poll() is not None)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130, errors
    assert "Traceback" not in errors
    (text,) = ours(github)
    assert find_job(text).state == "skipped"
    assert "was cancelled" in text
    assert "skipped" in (tmp_path / "output").read_text()
    assert desk.state() == before
