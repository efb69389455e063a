"""The Hub's webhooks: what each asks for, which are the same, and that no payload can break the reading."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.trigger.command import Command, Misread
from bot.trigger.hub import HubEvent, Ignored, Push, delivery_key, event, intent

FOLDER = Path(__file__).parent.parent / "payloads" / "hub"
PAYLOADS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
REPO = "some-user/some-repo"
OLD, NEW = "ce9a4674fa833a68d5a73ec355f0ea95eedd60b7", "575db8b7a51b6f85eb06eee540738584589f131c"


def payload(name, **changes):
    """A documented payload; `a__b=x` changes what lies there, and None takes it away."""
    found = copy.deepcopy(PAYLOADS[name])
    for path, value in changes.items():
        *above, last = path.split("__")
        place = found
        for key in above:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return found


def asked(name, **changes):
    return intent(event(payload(name, **changes)))


def test_a_push_to_main_names_the_commit_and_the_one_before():
    assert asked("push") == Push(repository=REPO, commit=NEW, before=OLD)


def test_a_new_main_has_none_before():
    refs = [{"ref": "refs/heads/main", "oldSha": None, "newSha": NEW}]
    assert asked("push", updatedRefs=refs) == Push(repository=REPO, commit=NEW)


def test_without_refs_the_head_is_what_was_pushed():
    assert asked("push", updatedRefs=None) == Push(repository=REPO, commit=NEW)


def test_a_narrower_scope_counts_as_the_broader():
    assert isinstance(asked("push", event__scope="repo.content.lfs"), Push)


def test_a_command_in_a_discussion():
    found = event(payload("comment"))
    assert intent(found) == Command(verb="plan")
    assert (found.number, found.on_pull, found.comment, found.author) == (
        3, False, "6398872887bfcfb93a306f18", "61d2000c3c2083e1c08af22d",
    )  # fmt: skip


def test_the_text_that_opens_a_discussion_may_be_a_command():
    assert asked("discussion") == Command(verb="plan")
    assert asked("pull_request", comment__content="/merge --to acme/merged") == Command(to="acme/merged")
    assert event(payload("pull_request")).on_pull


def test_a_typo_is_answered():
    assert isinstance(asked("comment", comment__content="/merge pln"), Misread)


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("hub_pr_commit", {}, "other than main"),
        ("main_deleted", {}, "gone"),
        ("dataset_push", {}, "no model but a dataset"),
        ("space_push", {}, "no model but a space"),
        ("bucket_push", {}, "no model but a bucket"),
        ("comment", {"repo__type": "space"}, "no model but a space"),
        ("created", {}, "adds no adapter"),
        ("config", {}, "adds no adapter"),
        ("config_dois", {}, "adds no adapter"),
        ("moved", {}, "called other-user/other-repo now"),
        ("created", {"event__action": "delete"}, "adds no adapter"),
        ("discussion_closed", {}, "asks for nothing"),
        ("comment_edited", {}, "asks for nothing"),
        ("comment", {"event__scope": "discussion.comment.reaction"}, "asks for nothing"),
        ("comment", {"comment__hidden": True}, "cannot be read"),
        ("comment", {"comment__id": None}, "cannot be read"),
        ("comment", {"discussion__num": -3}, "cannot be read"),
        ("comment", {"comment__content": "Thanks!"}, "no command"),
        ("comment", {"comment__content": "> /merge"}, "no command"),
        ("comment", {"comment__content": "/merge\n<!-- adapter-merge-bot notice -->"}, "bots"),
        ("comment", {"comment__content": None}, "no command"),
        ("push", {"repo__name": None}, "names no repository"),
        ("push", {"repo__name": "../etc/passwd"}, "names no repository"),
        ("push", {"repo__headSha": "not a commit", "updatedRefs": None}, "does not say where"),
    ],
)
def test_what_asks_for_nothing_says_why(name, changes, why):
    found = asked(name, **changes)
    assert isinstance(found, Ignored)
    assert why in found.reason


def test_a_delivery_that_comes_again_has_the_same_key():
    assert delivery_key(event(payload("push"))) == delivery_key(event(payload("push", webhook__id="other")))
    # the Hub may tell of a new discussion and of its first comment, and one answer is enough
    assert delivery_key(event(payload("discussion"))) == delivery_key(event(payload("comment")))


def test_what_differs_has_another_key():
    later = [{"ref": "refs/heads/main", "oldSha": NEW, "newSha": OLD}]
    found = [
        payload("push"), payload("push", updatedRefs=later), payload("push", repo__name="some-user/b"),
        payload("hub_pr_commit"), payload("comment"), payload("comment_edited"), payload("created"),
        payload("comment", comment__id="6398872887bfcfb93a306f19"), payload("discussion_closed"),
    ]  # fmt: skip
    assert len({delivery_key(event(one)) for one in found}) == len(found)


def test_an_unknown_field_changes_nothing():
    assert event(payload("push", news={"a": 1}, repo__region="eu")) == event(payload("push"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_read(anything):
    found = event(anything)
    assert isinstance(found, HubEvent)
    assert intent(found)
    assert delivery_key(found)


@given(st.sampled_from(sorted(PAYLOADS)), st.data())
def test_a_documented_payload_with_anything_in_one_place_is_read(name, data):
    found = copy.deepcopy(PAYLOADS[name])
    place = found
    while True:
        key = data.draw(
            st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1)
        )
        inner = place[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            place = inner
            continue
        place[key] = data.draw(JSON)
        break
    assert intent(event(found))
    assert delivery_key(event(found))
