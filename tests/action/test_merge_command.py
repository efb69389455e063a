"""The job of .github/workflows/merge-command.yml, step by step, for comments under a GitHub PR of the fake GitHub."""

import pytest

from tests.action.runner import ROOT, Runner
from tests.e2e import ADAPTER, hub, models
from tests.github.server import FakeGitHub

__all__ = ["hub", "models"]
WORKFLOW = ROOT / ".github/workflows/merge-command.yml"
REPOSITORY = "acme/adapters"


@pytest.fixture
def answer(tmp_path, path, hub):
    """Alice, who may write there, comments; gives the machine, the run, and what the bot has said."""
    with FakeGitHub() as github:
        github.add_repo(REPOSITORY, roles={"alice": "write"})
        github.open_pull(REPOSITORY, {"a.txt": "a"}, author="bob")
        github.add_user("mallory")

        def answer(body, *, by="alice"):
            said = github.say(REPOSITORY, 1, body, author=by)
            comment = {
                "id": said.id,
                "body": body,
                "html_url": "https://x",
                "user": {"login": by, "type": "User"},
            }
            issue = {"number": 1, "title": "A", "body": "", "pull_request": {"url": "https://x"}}
            event = {"action": "created", "issue": issue, "comment": comment}
            machine = Runner(
                tmp_path / "machine",
                environment=hub.environment()
                | {"PATH": path, "GITHUB_API_URL": github.url, "GITHUB_REPOSITORY": REPOSITORY},
                github={
                    "token": github.workflow_token(REPOSITORY),
                    "event_name": "issue_comment",
                    "event": event,
                },
                left_out={"actions/checkout"},
            )
            ran = machine.job(WORKFLOW, "merge", secrets={"HF_TOKEN": hub.token("alice")})
            ours = [c.body for c in github.comments(REPOSITORY) if c.author == "github-actions[bot]"]
            return machine, ran, ours

        yield answer


def test_a_command_is_answered_in_one_comment(answer):
    machine, ran, ours = answer(f"/merge plan {ADAPTER}")
    assert not ran.failed, machine.log
    assert len(ours) == 1
    assert "can be merged" in ours[0]
    assert machine.summary


@pytest.mark.parametrize("by", [pytest.param("alice", marks=pytest.mark.slow), "mallory"])
def test_a_comment_is_never_more_than_text(answer, tmp_path, by):
    nasty = "/merge $(touch pwned) `touch pwned`; touch pwned ##[set-output name=outcome]published"
    machine, _, ours = answer(
        f"{nasty}\n::set-output name=outcome::published\n${{{{ secrets.HF_TOKEN }}}}", by=by
    )
    assert len(ours) == 1
    assert not [*tmp_path.rglob("pwned"), *ROOT.glob("pwned")]
    assert not {command.name for command in machine.commands} - {"error", "warning", "notice"}
    assert "Traceback" not in machine.log
