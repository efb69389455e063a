"""GitHub's events: what each asks for, and that no payload can break the reading."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.trigger.command import Command, Misread
from bot.trigger.github import COMMENTS, OWN_JOB, PULL_REQUEST, Ignored, Look, OwnJob, event, intent, links

SHA = "a" * 40


def comment(body="/merge plan", *, action="created", user="alice", kind="User", pull=True, **more):
    return {
        "action": action,
        "issue": {"number": 7, "title": "Add", "body": "text"}
        | ({"pull_request": {"url": "…"}} if pull else {}),
        "comment": {
            "id": 5,
            "body": body,
            "html_url": "https://…",
            "user": {"login": user, "type": kind},
            **more,
        },
        "repository": {"full_name": "acme/adapters"},
        "sender": {"login": user},
    }


def asked(name, payload):
    return intent(event(name, payload))


def test_a_command_under_a_pull_request():
    found = event("issue_comment", comment(), delivery="d1")
    assert intent(found) == Command(verb="plan")
    assert (found.number, found.actor, found.repository, found.delivery) == (
        7,
        "alice",
        "acme/adapters",
        "d1",
    )
    assert (found.comment.id, found.comment.author, found.comment.kind) == (5, "alice", "issue")
    assert found.text == "Add\ntext"


def test_a_command_at_a_line_of_code_pins_the_head():
    payload = {
        "action": "created",
        "pull_request": {"number": 3, "head": {"sha": SHA}},
        "comment": {"id": 5, "body": "/merge", "user": {"login": "alice", "type": "User"}},
    }
    found = event("pull_request_review_comment", payload)
    assert intent(found) == Command()
    assert (found.head_sha, found.comment.kind) == (SHA, "review")
    payload["comment"]["original_commit_id"] = "e" * 40  # somebody has pushed since the diff was opened
    assert event("pull_request_review_comment", payload).head_sha == "e" * 40


@pytest.mark.parametrize(
    "payload",
    [
        comment(action="edited"),
        comment(action="deleted"),
        comment("LGTM"),
        comment("> /merge"),
        comment(user="github-actions[bot]", kind="Bot"),
        comment(user="odd[bot]"),
        comment(kind="Bot"),
        comment(performed_via_github_app={"id": 1}),
        comment("/merge\n<!-- adapter-merge-bot notice -->"),
        comment("Nice", pull=False),
    ],
)
def test_what_is_no_command_is_passed_over(payload):
    assert isinstance(asked("issue_comment", payload), Ignored)


def test_a_command_under_an_issue_is_answered():
    assert isinstance(asked("issue_comment", comment(pull=False)), Misread)


@pytest.mark.parametrize("action", ["opened", "synchronize", "reopened", "ready_for_review"])
def test_a_changed_pull_request_is_looked_at(action):
    payload = {"action": action, "pull_request": {"number": 3, "head": {"sha": SHA}}}
    assert asked("pull_request", payload) == Look()
    assert event("pull_request", payload).head_sha == SHA


@pytest.mark.parametrize("action", ["closed", "labeled", "edited", ""])
def test_a_pull_request_whose_files_stay_is_not(action):
    assert isinstance(asked("pull_request", {"action": action, "pull_request": {"number": 3}}), Ignored)


@pytest.mark.parametrize("name", ["workflow_dispatch", "push", "schedule"])
def test_these_run_the_job_of_the_inputs(name):
    assert asked(name, {}) == OwnJob()


def test_a_deleted_branch_runs_nothing():
    assert isinstance(asked("push", {"deleted": True}), Ignored)


@pytest.mark.parametrize("name", ["", "issues", "fork", "watch", "workflow_run", "pull_request_review"])
def test_other_events_do_nothing(name):
    assert isinstance(asked(name, comment()), Ignored)


HOOK = {
    "event": {"action": "update", "scope": "repo.content"},
    "repo": {"type": "model", "name": "alice/tiny-lora", "headSha": SHA},
    "updatedRefs": [{"ref": "refs/heads/main", "oldSha": "b" * 40, "newSha": SHA}],
}


def test_a_relayed_hub_webhook_names_the_adapter_and_its_commit():
    assert asked("repository_dispatch", {"client_payload": HOOK}) == OwnJob(
        adapter="alice/tiny-lora", revision=SHA
    )


@pytest.mark.parametrize("refs", ["refs/pr/1", "refs/heads/dev"])
def test_a_hub_pr_starts_nothing(refs):
    payload = {"client_payload": {**HOOK, "updatedRefs": [{"ref": refs}]}}
    assert isinstance(asked("repository_dispatch", payload), Ignored)


@pytest.mark.parametrize(
    "sent",
    [
        {"adapter": "./x"},
        {"adapter": "/etc"},
        {"repo": {"type": "dataset", "name": "a/b"}},
        {"adapter": 3},
        [],
    ],
)
def test_a_caller_names_nothing_of_this_machine(sent):
    assert asked("repository_dispatch", {"client_payload": sent}) == OwnJob()


def test_a_caller_may_name_adapter_and_revision():
    sent = {"adapter": "alice/a", "revision": "v2"}
    assert asked("repository_dispatch", {"client_payload": sent}) == OwnJob(adapter="alice/a", revision="v2")


def test_links_to_models_are_found_and_others_are_not():
    text = (
        "See https://huggingface.co/alice/tiny-lora/tree/main, [b](https://hf.co/bob/b.) and https://huggingface.co/alice/tiny-lora"
        " not https://huggingface.co/datasets/x/y https://huggingface.co/docs/hub https://evil.example/a/b"
        " https://huggingface.co.evil.example/c/d"
    )
    assert links(text) == ("alice/tiny-lora", "bob/b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["action", "issue", "comment", "pull_request", "user", "login", "number", "head", "sha", "body", "id", "type",
        "client_payload", "updatedRefs", "repo", "deleted", "sender", "repository"]  # fmt: skip
PAYLOADS = st.recursive(
    JSON, lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=5), max_leaves=12
)


@given(st.sampled_from([*COMMENTS, *PULL_REQUEST, *OWN_JOB, "x"]), PAYLOADS)
def test_no_payload_breaks_it(name, payload):
    intent(event(name, payload))
