"""What GitHub refuses, limits and breaks becomes one clear error, without a token in it or waiting for ever."""

import logging
import socket
import time

import pytest

from bot.clients.github import GitHub
from bot.errors import AccessError, HostError, InputError, MergeBotError
from tests.clients.github_fixtures import ADAPTER, REPO, client, clock, forge

__all__ = ["clock", "forge"]
SECONDARY = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
TALK = {"contents": "read", "pull_requests": "read"}


@pytest.fixture(autouse=True)
def a_github_pr(forge):
    forge.open_pull(REPO, ADAPTER)


def stop(call, *, kind: type[MergeBotError], code: str) -> MergeBotError:
    with pytest.raises(MergeBotError) as caught:
        call()
    error = caught.value
    assert (type(error), error.code) == (kind, code)
    assert error.sentence.startswith("Could not ")
    assert error.sentence.endswith(".")
    assert not any(prefix in error.sentence + error.advice for prefix in ("ghs_", "ghp_"))
    return error


def tries(forge, match="/pulls/1") -> int:
    return sum(match in request.path for request in forge.requests)


# permissions


@pytest.mark.parametrize(
    ("call", "permission"),
    [
        (lambda github: github.post_comment(1, "hello"), "pull-requests: write"),
        (lambda github: github.react(None, 1, "eyes"), "pull-requests: write"),
    ],
)
def test_a_permission_that_lacks_is_named_with_the_yaml_to_add(forge, call, permission):
    github = client(forge, forge.workflow_token(REPO, TALK))
    error = stop(lambda: call(github), kind=AccessError, code="github-permission")
    assert f"lacks the permission `{permission}`" in error.sentence
    assert f"`permissions: {{{permission}}}`" in error.advice
    assert tries(forge, "/issues/1") == 1  # another try would change nothing


@pytest.mark.parametrize(
    ("call", "permission"),
    [
        (lambda github: github.pull_request(1), "pull-requests: read"),
        (lambda github: github.changed_files(1), "pull-requests: read"),
        (lambda github: github.find_comment(1, marker="x", author="carol"), "pull-requests: read"),
        (lambda github: github.read_file("README.md", ref="main"), "contents: read"),
        (lambda github: github.list_folder("", ref="main"), "contents: read"),
    ],
)
def test_reading_a_private_repository_takes_permissions_too(forge, call, permission):
    forge.state.repos[REPO].private = True
    github = client(forge, forge.workflow_token(REPO, {"metadata": "read"}))
    error = stop(lambda: call(github), kind=AccessError, code="github-permission")
    assert permission in error.sentence


def test_a_rule_that_no_permission_helps_against_is_told_in_githubs_words(forge):
    forge.state.repos[REPO].pulls[1].locked = True
    error = stop(lambda: client(forge).post_comment(1, "hello"), kind=AccessError, code="github-forbidden")
    assert "issue is locked" in error.sentence
    forge.state.repos[REPO].archived = True
    error = stop(lambda: client(forge).post_comment(1, "hello"), kind=AccessError, code="github-forbidden")
    assert "archived" in error.sentence


@pytest.mark.parametrize(
    "call",
    [
        lambda github: github.login(),
        lambda github: github.permission("wendy"),
        lambda github: github.pull_request(1),
        lambda github: github.read_file("README.md", ref="main"),
        lambda github: github.verdict("0" * 40, name="x", state="success", title="x", summary="x"),
    ],
)
def test_a_token_that_nobody_holds(forge, call):
    github = client(forge, "ghs_" + "0" * 40)
    stop(lambda: call(github), kind=AccessError, code="github-bad-token")


def test_what_github_does_not_take_is_told_in_its_words(forge):
    error = stop(lambda: client(forge).post_comment(1, " "), kind=InputError, code="github-declined")
    assert "422 (Validation Failed)" in error.sentence
    stop(lambda: client(forge).post_comment(5, "hello"), kind=InputError, code="github-not-found")


# rate limits


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        ({"status": 429, "headers": {"Retry-After": "7"}}, [7.0]),
        ({"status": 403, "headers": {"Retry-After": "7"}, "message": SECONDARY}, [7.0]),
        ({"status": 403, "message": SECONDARY}, [60.0]),
        ({"status": 502}, [0.0]),
        ({"status": 503, "headers": {"Retry-After": "3"}}, [3.0]),
    ],
)
def test_github_is_asked_again_as_late_as_it_wants(forge, clock, fault, waits):
    forge.fault("/pulls/1", times=1, **fault)
    assert client(forge).pull_request(1).number == 1
    assert clock.waits == waits


@pytest.mark.parametrize("status", [403, 429])
def test_the_hours_limit_is_waited_for_when_it_is_short(forge, clock, status):
    reset = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 20)}
    forge.fault("/pulls/1", status=status, headers=reset, message="API rate limit exceeded for x.", times=1)
    assert client(forge).pull_request(1).number == 1
    assert [18 < wait < 22 for wait in clock.waits] == [True]


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"Retry-After": "3600"}},
        {"status": 403, "headers": {"Retry-After": "3600"}, "message": SECONDARY},
        {"status": 403, "message": SECONDARY},
    ],
)
def test_a_wait_longer_than_our_patience_is_an_error_at_once(forge, clock, fault):
    forge.fault("/pulls/1", **fault)
    github = client(forge, patience=30.0)
    error = stop(lambda: github.pull_request(1), kind=HostError, code="github-rate-limit")
    assert "seconds" in error.advice
    assert clock.waits == []
    assert tries(forge) == 1


def test_many_short_waits_end_when_patience_does(forge, clock):
    forge.fault("/pulls/1", status=429, headers={"Retry-After": "20"})
    github = client(forge, patience=50.0, attempts=10)
    stop(lambda: github.pull_request(1), kind=HostError, code="github-rate-limit")
    assert clock.waits == [20.0, 20.0]


def test_a_limit_that_stays_is_an_error_after_some_attempts(forge, clock):
    forge.fault("/pulls/1", status=403, message=SECONDARY)
    github = client(forge, patience=600.0)
    stop(lambda: github.pull_request(1), kind=HostError, code="github-rate-limit")
    assert clock.waits == [60.0, 60.0]


def test_a_spent_hour_is_told_with_its_end(forge):
    forge.state.requests_left = 0
    error = stop(lambda: client(forge).permission("wendy"), kind=HostError, code="github-rate-limit")
    assert int(error.advice.split(" seconds")[0].split()[-1]) > 3000


def test_a_comment_that_was_limited_is_posted_once_and_not_looked_for(forge):
    forge.fault("/issues/1/comments", method="POST", status=429, headers={"Retry-After": "1"}, times=1)
    client(forge).post_comment(1, "hello")
    assert [request.method for request in forge.requests] == ["POST", "POST"]
    forge.fault("/issues/1/comments", method="POST", status=429, headers={"Retry-After": "3600"})
    stop(lambda: client(forge).post_comment(1, "bye"), kind=HostError, code="github-rate-limit")
    assert [said.body for said in forge.comments(REPO)] == ["hello"]


# a bad network


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 502}, "github-down"),
        ({"status": 500}, "github-down"),
        ({"drop_after": 10}, "github-unreachable"),
        ({"hang": 30.0}, "github-timeout"),
    ],
)
def test_what_stays_broken_is_an_error_after_some_attempts(forge, fault, code):
    forge.fault("/pulls/1", **fault)
    github = client(forge, timeout=1.0, attempts=2)
    stop(lambda: github.pull_request(1), kind=HostError, code=code)
    assert tries(forge) == 2


def test_an_answer_that_broke_off_is_asked_for_again(forge):
    forge.fault("/pulls/1", drop_after=100, times=1)
    assert client(forge).pull_request(1).number == 1


def test_a_slow_answer_is_waited_for(forge):
    forge.fault("/pulls/1", slow=40_000, times=1)
    assert client(forge).pull_request(1).number == 1


def test_nobody_listens():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    github = GitHub(REPO, token="ghs_" + "0" * 40, api_url=f"http://127.0.0.1:{port}", attempts=1)
    stop(lambda: github.pull_request(1), kind=HostError, code="github-unreachable")


def test_an_answer_that_is_not_githubs(forge, monkeypatch):
    monkeypatch.setattr("tests.github.shapes.Shapes.pull", lambda *_: {"hello": "captive portal"})
    stop(lambda: client(forge).pull_request(1), kind=HostError, code="github-down")


def test_a_link_to_another_host_is_not_followed(forge):
    forge.open_pull(REPO, {f"a/{n}": "x" for n in range(150)})
    forge.state.public_url = "http://evil.example"
    stop(lambda: client(forge).changed_files(2), kind=HostError, code="github-down")


def test_no_log_holds_the_token(forge, caplog):
    token = forge.workflow_token(REPO)
    with caplog.at_level(logging.DEBUG):
        client(forge, token).pull_request(1)
        forge.fault("/pulls/1", status=502)
        stop(lambda: client(forge, token).pull_request(1), kind=HostError, code="github-down")
    assert token not in caplog.text
