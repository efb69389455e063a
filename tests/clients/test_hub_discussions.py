"""Discussions and repositories through the real client against the loopback Hub, and what its faults become."""

from __future__ import annotations

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from bot.clients.hub_discussions import HubDiscussions
from bot.clients.hub_repository import HubRepository
from bot.connect import LazyHub
from bot.errors import AccessError, HostError, InputError
from bot.settings import Settings
from tests.clients.hub_fixtures import hub

__all__ = ["hub"]
REPO = "alice/lora"


@pytest.fixture
def thread(hub):
    """A discussion of alice's, in which bob has said something; as bob talks there."""
    hub.commit(REPO, {"adapter_config.json": "{}"})
    api = HfApi(endpoint=hub.url, token=hub.token("alice"))
    api.create_discussion(REPO, "Questions", description="Hello")
    return api


@pytest.fixture
def talk(hub, thread):
    def talk(user="bob", **more):
        return HubDiscussions(REPO, endpoint=hub.url, token=hub.token(user, **more), attempts=2)

    return talk


def test_a_comment_is_found_edited_and_read_again(hub, thread, talk):
    posted = talk().post_comment(1, "<!-- mine --> first")
    assert posted.author == "bob"
    assert posted.url == f"{hub.url}/{REPO}/discussions/{posted.id}"
    talk().post_comment(1, "<!-- mine --> second")
    found = talk().find_comments(1, marker="<!-- mine -->")
    assert [one.body for one in found] == ["<!-- mine --> first", "<!-- mine --> second"]
    assert talk().find_comment(1, marker="<!-- mine -->") == found[-1]
    assert talk("alice").find_comment(1, marker="<!-- mine -->") is None  # not alice's
    assert talk("alice").find_comment(1, marker="<!-- mine -->", author="bob") == found[-1]
    assert talk().edit_comment(posted, "other").body == "other"
    assert talk().comment(posted.id, "issue").body == "other"


def test_a_discussion_and_a_hub_pr(hub, thread, talk):
    discussion = talk().pull_request(1)
    assert (discussion.state, discussion.author, discussion.head_sha) == ("open", "alice", "")
    thread.change_discussion_status(REPO, 1, "closed")
    assert talk().pull_request(1).state == "closed"
    made = thread.create_commit(REPO, [CommitOperationAdd("x", b"x")], commit_message="Mine", create_pr=True)
    assert talk().pull_request(2).head_sha == made.oid
    thread.merge_pull_request(REPO, 2)
    assert talk().pull_request(2).state == "merged"


def test_what_is_gone_is_none(hub, thread, talk):
    said = talk().post_comment(1, "x")
    assert talk().pull_request(9) is None
    assert talk().comment("9#abc", "issue") is None
    assert talk().comment("1#abc", "issue") is None
    hub.delete_repo(REPO)
    assert talk().edit_comment(said, "y") is None


def test_a_hidden_comment_is_gone_and_the_others_can_be_read(thread, talk):
    """The client itself reads no discussion in which one is hidden."""
    said, other = talk().post_comment(1, "x"), talk().post_comment(1, "y")
    with pytest.warns(UserWarning, match="irreversible"):
        thread.hide_discussion_comment(REPO, 1, said.id.partition("#")[2])
    assert talk().comment(said.id, "issue") is None
    assert talk().comment(other.id, "issue").body == "y"


def test_an_answer_that_was_lost_is_looked_for(hub, talk):
    hub.clear_requests()
    hub.fault("/comment$", method="POST", drop_after=0, times=1)
    talk().post_comment(1, "x")
    assert sum(r.method == "POST" for r in hub.requests) == 1


def test_what_was_not_carried_out_is_sent_again(hub, talk):
    hub.fault("/comment$", method="POST", status=502, times=1)
    said = talk().post_comment(1, "x")
    assert talk().find_comments(1, marker="x") == (said,)


@pytest.mark.parametrize(("wait", "code"), [("3", "rate-limit"), ("7200", "rate-limit")])
def test_a_rate_limit_says_for_how_long_and_nothing_is_posted_blindly(hub, talk, wait, code):
    hub.fault("/comment$", method="POST", status=429, headers={"Retry-After": wait}, times=3)
    with pytest.raises(HostError) as error:
        talk().post_comment(1, "x")
    assert (error.value.code, error.value.wait) == (code, float(wait))
    hub.clear_faults()
    assert talk().find_comments(1, marker="x") == ()


def test_a_hub_that_stumbles_is_asked_again(hub, talk):
    hub.fault("/discussions/1", method="GET", status=500, times=1)
    assert talk().pull_request(1).state == "open"
    hub.fault("/discussions/1", method="GET", status=500, times=2)
    with pytest.raises(HostError, match="status 500"):
        talk().pull_request(1)


def test_a_token_that_may_not_write_says_so(hub, talk):
    with pytest.raises(AccessError):
        talk(role="read").post_comment(1, "x")
    with pytest.raises(AccessError):
        HubDiscussions(REPO, endpoint=hub.url, token="hf_wrong", attempts=2).login()


def test_organisations_are_what_a_profile_shows(talk):
    assert talk().organizations("alice") == {"acme"}
    assert talk().organizations("nobody") == frozenset()


# repositories


def test_a_repository_at_a_commit(hub):
    there = HubRepository(REPO, endpoint=hub.url, token=hub.token("bob"), attempts=2)
    assert there.at() is None
    first = hub.commit(REPO, {"a": "1", "sub/b.safetensors": b"weights", "empty": b""})
    hub.commit(REPO, {"a": "2"})
    before, now = there.at(first), there.at()
    assert set(now.files) == {".gitattributes", "a", "empty", "sub/b.safetensors"}
    assert before.files["a"] != now.files["a"]
    assert before.files["sub/b.safetensors"] == now.files["sub/b.safetensors"]
    assert there.read("a", commit=first, limit=10) == b"1"
    assert there.read("sub/b.safetensors", commit=first, limit=3) == b"weig"
    assert there.read("empty", commit=first, limit=3) == b""
    assert there.read("none", commit=first, limit=3) is None
    assert there.at("a" * 40) is None
    hub.commit(REPO, {"x": "y"}, private=True)
    assert there.at() is None  # as if it were not there


def test_who_is_not_known_reads_their_own_alone(hub):
    """The bot reads all of acme's; for alice it reads what is hers, under each of its names, and no more."""
    hub.add_user("merge-bot", orgs=("alice", "acme"))
    for name in ("alice/mine", "acme/closed"):
        hub.commit(name, {"a": "1"}, private=True)
    hub.commit("alice/was", {"a": "1"}, private=True)
    hub.rename("alice/was", "acme/moved")
    token = hub.token("merge-bot", role="read")
    known = {"endpoint": hub.url, "read_token": token, "attempts": 2, "timeout": 3.0}
    theirs = LazyHub(Settings(anonymous=True, owned=frozenset({"alice"}), **known))
    assert theirs.open("alice/mine").files.read("a") == b"1"
    for name in ("acme/closed", "alice/was", "acme/moved"):
        with pytest.raises((AccessError, InputError)):
            theirs.open(name)
    assert LazyHub(Settings(**known)).open("alice/was").pinned.location == "acme/moved"
