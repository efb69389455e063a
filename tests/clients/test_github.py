"""The client against a GitHub on this machine, through the real PyGithub: what it reads, says, and may not do."""

import subprocess
import sys
from pathlib import Path

import pytest

from bot.clients.github import ACTIONS, LONGEST, GitHub
from bot.clients.github_api import web_url
from bot.errors import AccessError, HostError, InputError, RefusedError
from bot.forge import Entry
from tests.clients.github_fixtures import ADAPTER, CONFIG, REPO, WEIGHTS, client, clock, forge
from tests.github.git import Link, Submodule

__all__ = ["clock", "forge"]
MARKER = "<!-- merge-bot job=1 -->"


# people


@pytest.mark.parametrize(
    ("user", "role"),
    [("acme", "admin"), ("wendy", "write"), ("rita", "read"), ("carol", "read"), ("nobody-at-all", "none")],
)
def test_roles_come_from_the_repository(forge, user, role):
    assert client(forge).permission(user) == role


@pytest.mark.parametrize("role", ["maintain", "triage"])
def test_roles_between_the_others_keep_their_name(forge, role):
    forge.state.repos[REPO].roles["carol"] = role
    assert client(forge).permission("carol") == role


def test_a_custom_role_counts_as_what_it_is_based_on(forge):
    forge.state.repos[REPO].roles |= {"carol": "releaser", "rita": "maintain"}
    forge.state.repos[REPO].custom_roles |= {"releaser": "write", "maintain": "read"}
    assert client(forge).permission("carol") == "write"
    assert client(forge).permission("rita") == "read"  # a name alone gives nobody a right


@pytest.mark.parametrize("name", ["../../user", "a b", "", "wendy/../acme", "wendy%2f"])
def test_what_cannot_be_a_user_has_no_role_and_is_not_asked_about(forge, name):
    assert client(forge).permission(name) == "none"
    assert not forge.requests


def test_we_are_the_tokens_owner_and_a_workflows_token_is_the_actions_bot(forge):
    assert client(forge, forge.add_user("wendy")).login() == "wendy"
    assert client(forge).login() == ACTIONS
    assert client(forge, login="merge-bot[bot]").login() == "merge-bot[bot]"


def test_the_token_of_an_installation_knows_its_own_comments(forge):
    """Whoever made the token: `actions/create-github-app-token` hands over nothing but the token."""
    forge.open_pull(REPO, ADAPTER)
    github = client(forge, forge.app_token("acme-merger", REPO))
    posted = github.post_comment(1, f"{MARKER} mine")
    assert posted.author == github.login() == "acme-merger[bot]"
    assert github.find_comment(1, marker=MARKER) == posted


def test_an_enterprise_server_says_who_we_are_beside_its_rest_api(forge):
    server = GitHub(REPO, token=forge.app_token("acme-merger", REPO), api_url=f"{forge.url}/api/v3")
    assert server.login() == "acme-merger[bot]"
    assert [request.path for request in forge.requests] == ["/api/graphql"]


@pytest.mark.parametrize(
    "trouble",
    [{"status": 403, "message": "Resource not accessible by integration"}, {"status": 404}],
    ids=["closed", "missing"],
)
def test_where_graphql_is_closed_rest_says_who_we_are(forge, trouble):
    forge.fault("/graphql", **trouble)
    assert client(forge, forge.add_user("wendy")).login() == "wendy"
    assert client(forge).login() == ACTIONS


def test_a_graphql_that_declines_by_a_200_is_none_either(forge, monkeypatch):
    monkeypatch.setattr("bot.clients.github.VIEWER", "{nobody}")
    assert client(forge, forge.add_user("wendy")).login() == "wendy"


def test_a_graphql_that_stumbles_is_asked_again_and_who_we_are_is_never_guessed(forge):
    forge.fault("/graphql", status=502, times=2)
    assert client(forge, forge.app_token("acme-merger", REPO)).login() == "acme-merger[bot]"
    forge.fault("/graphql", status=502)
    with pytest.raises(HostError):
        client(forge, forge.app_token("acme-merger", REPO)).login()


# GitHub PRs


def test_a_github_pr_of_the_repository(forge):
    made = forge.open_pull(REPO, ADAPTER, title="Cats")
    found = client(forge).pull_request(1)
    assert (found.number, found.title, found.state, found.author) == (1, "Cats", "open", "carol")
    assert (found.head_sha, found.head_repository, found.head_ref) == (made.head_sha, REPO, "add-adapter")
    assert (found.base_ref, found.is_fork, found.draft) == ("main", False, False)


def test_a_github_pr_of_a_fork_and_of_one_that_is_gone(forge):
    fork = forge.fork(REPO, "carol")
    pull = forge.open_pull(REPO, ADAPTER, head=fork, draft=True)
    found = client(forge).pull_request(1)
    assert (found.head_repository, found.is_fork, found.draft) == ("carol/adapters", True, True)
    pull.head_repository, pull.author = None, None
    found = client(forge).pull_request(1)
    assert (found.head_repository, found.is_fork, found.author) == (None, True, "ghost")


def test_a_github_pr_that_was_closed_merged_or_never_there(forge):
    forge.open_pull(REPO, ADAPTER)
    forge.close_pull(REPO, 1)
    assert client(forge).pull_request(1).state == "closed"
    forge.close_pull(REPO, 1, merged=True)
    assert client(forge).pull_request(1).state == "merged"
    assert client(forge).pull_request(2) is None


def test_a_push_moves_the_head(forge):
    first = forge.open_pull(REPO, ADAPTER).head_sha
    second = forge.commit(REPO, {"other": "x"}, branch="add-adapter")
    assert first != second == client(forge).pull_request(1).head_sha


def test_changed_files_come_from_all_pages_up_to_the_limit(forge):
    pull = forge.open_pull(REPO, {f"a/{n:03}": "x" for n in range(250)})
    pull.files[0] |= {"status": "renamed", "previous_filename": "old"}
    files = client(forge).changed_files(1)
    assert [file.path for file in files] == [f"a/{n:03}" for n in range(250)]
    assert (files[0].status, files[0].previous, files[1].previous) == ("renamed", "old", None)
    forge.clear_requests()
    assert len(client(forge).changed_files(1, limit=150)) == 150
    assert len(forge.requests) == 2
    assert client(forge).changed_files(7) == ()


def test_a_repository_that_the_token_does_not_see_is_not_taken_for_a_missing_github_pr(forge):
    forge.add_repo("acme/secret", private=True)
    hidden = GitHub("acme/secret", token=forge.workflow_token(REPO), api_url=forge.url)
    with pytest.raises(InputError) as caught:
        hidden.pull_request(1)
    assert caught.value.code == "github-not-found"


# files of a commit


def test_a_file_of_a_forks_commit_is_read_through_the_repository(forge):
    fork = forge.fork(REPO, "carol")
    sha = forge.open_pull(REPO, ADAPTER, head=fork).head_sha
    assert client(forge).read_file("adapter/adapter_config.json", ref=sha, repository=fork) == CONFIG.encode()
    assert not any("carol" in request.path for request in forge.requests)
    assert client(forge).read_file("adapter/nothing.json", ref=sha) is None
    assert client(forge).read_file("adapter/adapter_config.json", ref="0" * 40) is None


def test_names_of_files_are_quoted(forge):
    sha = forge.open_pull(REPO, {"a b/ü?#%20.json": "{}"}).head_sha
    assert client(forge).read_file("a b/ü?#%20.json", ref=sha) == b"{}"


def test_a_larger_file_is_read_whole_or_refused(forge):
    sha = forge.open_pull(
        REPO, {"big.json": "x" * (1 << 20) + "y", "folder/x": "", "sub": Submodule()}
    ).head_sha
    assert len(client(forge).read_file("big.json", ref=sha, limit=2 << 20)) == (1 << 20) + 1
    for path in ("big.json", "folder", "sub"):
        with pytest.raises(RefusedError):
            client(forge).read_file(path, ref=sha)


@pytest.mark.parametrize("path", ["../x", "a/../../b", "a/./b", ".git/config", "a\\b", "a\nb"])
def test_paths_that_leave_the_repository_are_refused(forge, path):
    for call in (client(forge).read_file, client(forge).list_folder):
        with pytest.raises(InputError) as caught:
            call(path, ref="main")
        assert caught.value.code == "github-bad-path"
    assert not forge.requests


def test_a_folder_is_listed_with_kinds_and_sizes(forge):
    files = {"a/f.txt": "four", "a/sub/x": "", "a/link": Link("f.txt"), "a/module": Submodule()}
    sha = forge.open_pull(REPO, files).head_sha
    assert client(forge).list_folder("a/", ref=sha) == (
        Entry(name="f.txt", size=4, kind="file"),
        Entry(name="link", size=5, kind="symlink"),
        Entry(name="module", size=0, kind="submodule"),
        Entry(name="sub", size=0, kind="folder"),
    )
    assert [entry.name for entry in client(forge).list_folder("", ref=sha)] == ["README.md", "a"]
    assert client(forge).list_folder("nowhere", ref=sha) == ()
    assert client(forge).list_folder("a/f.txt", ref=sha) == ()


def download(forge, into: Path, *, path="adapter", limit=1 << 20, pull=None, **more):
    pull = pull or forge.state.repos[REPO].pulls[1]
    client(forge).download_folder(path, ref=pull.head_sha, into=into, limit=limit, **more)
    return {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*")}


@pytest.mark.parametrize("lfs", [(), (".safetensors",)], ids=["plain", "LFS"])
def test_an_adapter_folder_is_downloaded_as_it_is(forge, tmp_path, lfs):
    forge.open_pull(REPO, {**ADAPTER, "adapter/checkpoint-1/optimizer.pt": "no"}, lfs=lfs)
    assert download(forge, tmp_path / "in") == {
        "adapter_config.json": CONFIG.encode(),
        "adapter_model.safetensors": WEIGHTS,
    }


def test_the_storage_of_large_files_never_sees_the_token(forge, tmp_path):
    forge.open_pull(REPO, ADAPTER, lfs=(".safetensors",))
    assert download(forge, tmp_path / "in")  # else it would answer 403
    assert [request.status for request in forge.requests if request.path.startswith("/lfs/")] == [200]


def test_a_large_file_of_a_fork_may_lie_with_the_fork(forge, tmp_path):
    fork = forge.fork(REPO, "carol")
    forge.state.repos[fork].large = {}
    forge.open_pull(REPO, ADAPTER, head=fork, lfs=(".safetensors",))
    with pytest.raises(InputError) as caught:
        download(forge, tmp_path / "one")
    assert caught.value.code == "github-lfs-missing"
    assert download(forge, tmp_path / "two", repository=fork)["adapter_model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("gone", ["git/blobs", "/lfs/", "objects/batch"])
def test_a_download_survives_a_stumble(forge, tmp_path, gone):
    forge.open_pull(REPO, ADAPTER, lfs=(".safetensors",))
    forge.fault(gone, status=502, times=1)
    forge.fault(gone, drop_after=20, times=1)
    assert download(forge, tmp_path / "in")["adapter_model.safetensors"] == WEIGHTS


def test_a_large_file_that_is_another_one_is_not_taken(forge, tmp_path):
    forge.open_pull(REPO, ADAPTER, lfs=(".safetensors",))
    large = forge.state.repos[REPO].large
    large[next(iter(large))] = b"evil!!!" * 1000
    with pytest.raises(HostError) as caught:
        download(forge, tmp_path / "in")
    assert caught.value.code == "github-lfs-damaged"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"adapter/weights": Link("/etc/passwd")}, "not-a-file"),
        ({"adapter/module": Submodule()}, "not-a-file"),
        ({"adapter/a\\b": "x"}, "not-a-file"),
        ({"adapter/..": "x"}, "not-a-file"),
        ({"adapter/a\nb": Link("x")}, "not-a-file"),
        ({"adapter/big": "x" * 2000}, "too-large"),
        ({f"adapter/{n}": "" for n in range(1001)}, "too-large"),
        ({"adapter": Link("README.md")}, "not-a-file"),
        ({"elsewhere/x": "x"}, "no-such-subfolder"),
    ],
)
def test_what_is_no_plain_folder_of_files_is_refused_before_a_byte_is_fetched(forge, tmp_path, files, code):
    forge.open_pull(REPO, files)
    with pytest.raises((RefusedError, InputError)) as caught:
        download(forge, tmp_path / "in", limit=1000)
    assert caught.value.code == code
    assert caught.value.sentence.isprintable()
    assert not any("blobs" in request.path for request in forge.requests)
    assert not (tmp_path / "in").exists()


def test_the_sizes_that_pointers_promise_count_as_well(forge, tmp_path):
    forge.open_pull(REPO, ADAPTER, lfs=(".safetensors",))
    with pytest.raises(RefusedError) as caught:
        download(forge, tmp_path / "in", limit=5000)
    assert caught.value.code == "too-large"
    assert not any(request.path.startswith("/lfs/") for request in forge.requests)


# comments and reactions


@pytest.mark.parametrize("kind", ["issue", "review"])
def test_reactions_come_once_and_only_ours_go(forge, kind):
    forge.open_pull(REPO, ADAPTER)
    said = forge.say(REPO, 1, "/merge", kind=kind)
    said.reactions[1] = ("rita", "eyes")
    github = client(forge)
    asked = github.comment(said.id, kind)
    for _ in range(2):
        github.react(asked, 1, "eyes")
    assert sorted(said.reactions.values()) == [(ACTIONS, "eyes"), ("rita", "eyes")]
    github.react(asked, 1, "rocket")
    github.unreact(asked, 1, "eyes")
    assert sorted(said.reactions.values()) == [(ACTIONS, "rocket"), ("rita", "eyes")]


def test_the_github_pr_itself_takes_reactions(forge):
    pull = forge.open_pull(REPO, ADAPTER)
    client(forge).react(None, 1, "confused")
    assert list(pull.reactions.values()) == [(ACTIONS, "confused")]
    client(forge).unreact(None, 1, "confused")
    assert not pull.reactions


@pytest.mark.parametrize("kind", ["issue", "review"])
def test_a_comment_of_each_kind_is_read_and_edited_until_it_is_deleted(forge, kind):
    forge.open_pull(REPO, ADAPTER)
    said = forge.say(REPO, 1, "before", author=ACTIONS, kind=kind)
    github = client(forge)
    found = github.comment(said.id, kind)
    assert (found.author, found.body, found.kind) == (ACTIONS, "before", kind)
    assert github.edit_comment(found, "after").body == said.body == "after"
    del forge.state.repos[REPO].comments[said.id]
    assert github.comment(said.id, kind) is None
    assert github.edit_comment(found, "again") is None
    github.react(found, 1, "eyes")
    github.unreact(found, 1, "eyes")


def test_our_comment_is_found_past_the_first_pages_and_the_newest_counts(forge):
    forge.open_pull(REPO, ADAPTER)
    forge.say(REPO, 1, f"{MARKER} old", author=ACTIONS)
    for n in range(120):
        forge.say(REPO, 1, f"talk {n}")
    forge.say(REPO, 1, f"{MARKER} forged by a stranger")
    newest = forge.say(REPO, 1, f"{MARKER} new", author=ACTIONS)
    for n in range(120):
        forge.say(REPO, 1, f"more talk {n}")
    assert client(forge).find_comment(1, marker=MARKER).id == newest.id
    assert client(forge).find_comment(1, marker=MARKER, author="carol").body.endswith("stranger")
    assert client(forge).find_comment(1, marker="<!-- another -->") is None
    assert client(forge).find_comment(9, marker=MARKER) is None


def test_a_comment_is_posted_and_shortened_to_what_github_takes(forge):
    forge.open_pull(REPO, ADAPTER)
    made = client(forge).post_comment(1, MARKER + "x" * 70_000)
    assert forge.comments(REPO)[0].body == made.body
    assert len(made.body) == LONGEST
    assert made.body.startswith(MARKER)
    assert made.url.startswith(forge.url)


def test_a_comment_whose_answer_was_lost_is_not_posted_twice(forge):
    forge.open_pull(REPO, ADAPTER)
    forge.fault("/issues/1/comments", method="POST", drop_after=0, times=1)
    made = client(forge).post_comment(1, "hello")
    assert [said.id for said in forge.comments(REPO)] == [made.id]


def test_a_comment_that_github_did_not_take_is_posted_again(forge):
    forge.open_pull(REPO, ADAPTER)
    forge.fault("/issues/1/comments", method="POST", status=502, times=1)
    client(forge).post_comment(1, "hello")
    assert [said.body for said in forge.comments(REPO)] == ["hello"]


# the verdict


def say(forge, state, token=None, name="adapter-merge-bot", **more):
    sha = forge.state.repos[REPO].branches["main"]
    facts = {"title": "All is well", "summary": "**Proof**", "url": "https://example.com/run", **more}
    return client(forge, token).verdict(sha, name=name, state=state, **facts)


def test_one_check_run_is_updated_until_it_is_completed(forge):
    token = forge.workflow_token(REPO)
    runs = forge.state.repos[REPO].runs
    for state in ("queued", "in_progress", "success"):
        assert say(forge, state, token) is None
    assert [(run["status"], run["conclusion"]) for run in runs] == [("completed", "success")]
    assert runs[0]["output"] == {"title": "All is well", "summary": "**Proof**"}
    assert runs[0]["details_url"] == "https://example.com/run"
    say(forge, "in_progress", token)
    say(forge, "failure", token)
    assert [run["conclusion"] for run in runs] == ["success", "failure"]
    say(forge, "neutral", token, name="plan", url=None)
    assert [run["name"] for run in runs] == ["adapter-merge-bot"] * 2 + ["plan"]


def test_a_job_of_the_same_name_is_not_ours(forge):
    repo = forge.state.repos[REPO]
    job = {"id": 7, "name": "merge", "head_sha": repo.branches["main"], "status": "queued", "app": ACTIONS}
    repo.runs.append(dict(job))
    assert say(forge, "success", name="merge") is None
    assert repo.runs[0] == job
    assert repo.runs[1]["conclusion"] == "success"


@pytest.mark.parametrize(
    ("state", "word"),
    [("queued", "pending"), ("in_progress", "pending"), ("neutral", "success"), ("failure", "failure")],
)
def test_without_the_permission_for_checks_a_commit_status_says_it(forge, state, word):
    token = forge.workflow_token(REPO, {"statuses": "write"})
    assert say(forge, state, token, title="t" * 200) is None
    status = forge.state.repos[REPO].statuses[0]
    assert (status["state"], status["context"], len(status["description"])) == (
        word,
        "adapter-merge-bot",
        140,
    )


def test_a_personal_token_cannot_make_check_runs_and_sets_a_status(forge):
    assert say(forge, "success", forge.add_user("wendy")) is None
    assert [status["creator"] for status in forge.state.repos[REPO].statuses] == ["wendy"]


def test_without_either_permission_the_sentence_names_the_one_to_add(forge):
    said = say(forge, "success", forge.workflow_token(REPO, {"contents": "read"}))
    assert "lacks the permission `checks: write`" in said
    assert "`permissions: {checks: write}`" in said


def test_a_commit_that_is_gone_is_a_sentence_too(forge):
    said = client(forge).verdict("0" * 40, name="merge", state="failure", title="t", summary="s")
    assert "No commit found" in said


# how it is built


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "tökén"])
def test_what_cannot_be_a_token_is_not_sent_and_not_quoted(forge, token):
    with pytest.raises(AccessError) as caught:
        GitHub(REPO, token=token, api_url=forge.url)
    assert caught.value.code == "github-bad-token"
    assert not token.strip() or token not in caught.value.sentence + caught.value.advice


@pytest.mark.parametrize("name", ["", "acme", "acme/a/b", "acme/..", "../acme", "acme/a b", "acme/a?x"])
def test_what_is_no_repository_is_refused(forge, name):
    with pytest.raises(InputError):
        GitHub(name, token="ghs_x", api_url=forge.url)


@pytest.mark.parametrize(
    "url", ["", "api.github.com", "ftp://api.github.com", "https://", "https://me@host/api/v3"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InputError):
        GitHub(REPO, token="ghs_x", api_url=url)


def test_an_enterprise_server_has_its_api_below_a_path(forge):
    forge.open_pull(REPO, {f"a/{n}": "x" for n in range(150)})
    server = GitHub(REPO, token=forge.workflow_token(REPO), api_url=f"{forge.url}/api/v3/")
    assert len(server.changed_files(1)) == 150
    assert {request.path.startswith("/api/v3/") for request in forge.requests} == {True}


@pytest.mark.parametrize(
    ("api", "site"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://github.example.com/api/v3", "https://github.example.com"),
        ("https://api.acme.ghe.com", "https://acme.ghe.com"),
    ],
)
def test_the_site_that_belongs_to_an_api(api, site):
    assert web_url(api) == site


def test_without_pygithub_there_is_one_sentence():
    code = """
import sys
sys.modules["github"] = None
from bot.errors import InputError
try:
    import bot.clients.github
except InputError as error:
    print(error.code, error.advice)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout
        == "github-client-missing Install the bot with it: pip install 'adapter-merge-bot[github]'.\n"
    )
