"""The fake GitHub and the client's requests, both held against GitHub's own OpenAPI description by Prism."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from bot.clients import github_api
from bot.clients.github import GitHub
from bot.clients.github_app import PERMISSIONS, installation_token
from bot.errors import MergeBotError
from tests.clients.github_fixtures import ADAPTER, REPO
from tests.clients.test_github_app import pem, public
from tests.github.examples import EVENTS, examples
from tests.github.openapi import prism
from tests.github.server import WORKFLOW, FakeGitHub
from tests.github.shapes import Shapes

MARKER = "<!-- job -->"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A fake GitHub with Prism in front of it: whoever breaks the description gets a 500."""
    with pytest.MonkeyPatch.context() as patch, FakeGitHub() as running:
        patch.setattr(github_api, "PAUSE", 0)
        running.add_repo(REPO, roles={"wendy": "write"})
        running.open_pull(
            REPO, {**ADAPTER, **{f"a/{n}": "x" for n in range(120)}}, head=running.fork(REPO, "carol")
        )
        with prism(running.url, tmp_path_factory.mktemp("prism")) as url:
            running.state.public_url = url
            yield running


def through(proxied, token=None):
    token = token or proxied.workflow_token(REPO, {**WORKFLOW, "statuses": "write"})
    return GitHub(REPO, token=token, api_url=proxied.state.public_url, attempts=1)


def test_people(proxied):
    assert through(proxied, proxied.add_user("wendy")).login() == "wendy"
    assert through(proxied).login() == "github-actions[bot]"
    assert through(proxied).permission("wendy") == "write"
    assert through(proxied).permission("nobody") == "none"


def test_github_prs_and_their_files(proxied):
    github = through(proxied)
    assert github.pull_request(1).is_fork
    assert github.pull_request(99) is None
    assert len(github.changed_files(1)) == 122


def test_files_of_a_commit(proxied, tmp_path):
    github, ref = through(proxied), proxied.state.repos[REPO].pulls[1].head_sha
    assert github.read_file("adapter/adapter_config.json", ref=ref)
    assert github.read_file("nothing.json", ref=ref) is None
    assert len(github.list_folder("", ref=ref)) == 3
    github.download_folder("adapter", ref=ref, into=tmp_path / "in", limit=1 << 20)
    assert len(list((tmp_path / "in").iterdir())) == 2


@pytest.mark.parametrize("kind", ["issue", "review"])
def test_comments_and_reactions(proxied, kind):
    github = through(proxied)
    asked = github.comment(proxied.say(REPO, 1, "/merge", kind=kind).id, kind)
    for reaction in ("eyes", "eyes", "rocket"):
        github.react(asked, 1, reaction)
        github.react(None, 1, reaction)
    github.unreact(asked, 1, "eyes")
    github.unreact(None, 1, "eyes")
    posted = github.post_comment(1, f"{MARKER} queued")
    assert github.find_comment(1, marker=MARKER) == posted
    assert github.edit_comment(posted, f"{MARKER} done").body.endswith("done")


@pytest.mark.parametrize("state", ["queued", "in_progress", "success", "neutral", "failure"])
def test_verdicts(proxied, state):
    sha = proxied.state.repos[REPO].pulls[1].head_sha
    facts = {"name": "merge", "state": state, "title": "t", "summary": "s", "url": "https://example.com/"}
    assert through(proxied).verdict(sha, **facts) is None
    assert through(proxied, proxied.workflow_token(REPO, {"statuses": "write"})).verdict(sha, **facts) is None
    assert "checks: write" in through(proxied, proxied.workflow_token(REPO, {})).verdict(sha, **facts)


def test_the_app_and_its_token(proxied):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    app = proxied.add_app("merge-bot", public_key=public(key), permissions=PERMISSIONS)
    proxied.install(app, REPO)
    made = installation_token(app, pem(key), REPO, api_url=proxied.state.public_url, attempts=1)
    assert through(proxied, made.token).pull_request(1).number == 1


def test_prism_would_notice(proxied, monkeypatch):
    real = Shapes.user
    monkeypatch.setattr(Shapes, "user", lambda self, login: {**real(self, login), "id": "seven"})
    with pytest.raises(MergeBotError):
        through(proxied).pull_request(1)


def test_the_recorded_payloads_can_be_read():
    found = examples()
    assert {one.event for one in found} == set(EVENTS)
    assert {"created", "edited", "deleted"} <= {one.action for one in found if one.event == "issue_comment"}
    assert len(found) > 40
