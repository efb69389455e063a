"""Real merges that were asked for on the loopback Hub: what is published, who may have what merged, what is said."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import HfApi, constants

from bot import connect
from bot.config.models import Ask, Config, Defaults, Watch
from bot.doors.ground import HubGround
from bot.doors.hub import answer
from bot.doors.pace import Pace
from bot.progress import Silent
from bot.publish.marker import find_job
from bot.settings import load
from bot.trigger.hub import event
from tests.clients.hub_fixtures import hub
from tests.e2e import _named, models

__all__ = ["hub", "models"]
LORA, BASE = "alice/lora", "acme/base"
RULES = Defaults(validation="structure", reload="never")
WATCHED = Config(watch=(Watch(owners=("alice",)),), defaults=RULES, ask=Ask(users=("bob",)))


@pytest.fixture(autouse=True)
def there(hub, models, tmp_path, monkeypatch):
    """A base of acme's, and the bot, which may write to alice's name and read acme's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    token = hub.add_user("merge-bot", orgs=("alice", "acme"))
    watched = [{"type": "user", "name": "alice"}]
    HfApi(endpoint=hub.url, token=token).create_webhook(url="http://127.0.0.1:9/", watched=watched)
    hub.commit(BASE, models.base)


@pytest.fixture
def happened(hub, tmp_path):
    """Answers the last thing that the webhook was told of, at once and in this process."""

    def happened(payload=None):
        payload = payload or hub.deliveries[-1].payload
        environ = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token("merge-bot"), "MERGE_BOT_ISOLATION": "none"}
        settings = load(environ)
        repository = payload["repo"]["name"]
        ground = HubGround(
            settings=settings,
            config=WATCHED,
            repository=repository,
            connect=lambda: connect.discussions(settings, repository=repository),
            progress=Silent(),
            run="1",
            url="",
            folder=tmp_path / "work",
            pace=Pace(every=0),
            sleep=lambda _: None,
        )
        return answer(event(payload), ground=ground)

    return happened


@pytest.fixture
def write(hub, happened):
    """Somebody opens a discussion on alice's adapter with a command; the answer's outcome, and what we said."""

    def write(body, *, by="alice"):
        api = HfApi(endpoint=hub.url, token=hub.token(by))
        api.create_discussion(LORA, "Please", description=body)
        ((_, outcome),) = happened().results
        events = api.get_discussion_details(LORA, 1).events
        return outcome, [e.content for e in events if e.author == "merge-bot" and e.type == "comment"]

    return write


def test_a_push_is_merged_published_and_never_again(hub, models, happened):
    hub.commit(LORA, _named(models.adapter, BASE))
    pushed = hub.deliveries[-1].payload
    ((_, outcome),) = happened(pushed).results
    assert outcome.ended == "published", outcome.failure
    assert "model.safetensors" in hub.files("alice/lora-merged")
    results = [d.payload for d in hub.deliveries if d.payload["repo"]["name"] == "alice/lora-merged"]
    assert results[-1]["event"]["scope"] == "repo.content"
    assert happened(results[-1]).results == ()  # our own push
    ((_, again),) = happened(pushed).results
    assert (again.ended, again.publication.existed) == ("skipped", True)


@pytest.mark.slow
def test_a_command_ends_in_one_comment_with_the_result(hub, models, write):
    hub.commit(LORA, _named(models.adapter, BASE))
    outcome, (said,) = write("/merge")
    assert outcome.ended == "published", outcome.failure
    assert find_job(said).state == "published"
    assert f"{hub.url}/alice/lora-merged" in said
    assert "To undo it" in said


@pytest.mark.slow
def test_the_owner_of_a_private_adapter_may_have_it_merged(hub, models, write):
    hub.commit(LORA, _named(models.adapter, BASE), private=True)
    outcome, _ = write("/merge")
    assert outcome.ended == "published", outcome.failure


def test_a_private_base_of_others_stays_closed_to_who_asks(hub, models, write):
    hub.commit(BASE, {"x": b"x"}, private=True)
    hub.commit(LORA, _named(models.adapter, BASE))
    outcome, (said,) = write("/merge")
    assert (outcome.ended, outcome.failure.code) == ("refused", "requester-access-unknown")
    assert "whether the one who asked may read it is not known" in said


@pytest.mark.parametrize(("by", "ended"), [("alice", "skipped"), ("bob", "failed")])
def test_a_plan_tells_of_what_is_ones_own(hub, models, write, by, ended):
    """The bot could read it for both; bob sees it only because he is of alice's, and the bot does not know that."""
    hub.add_user("bob", orgs=("alice",))
    hub.commit(LORA, _named(models.adapter, BASE), private=True)
    outcome, _ = write("/merge plan", by=by)
    assert outcome.ended == ended, outcome.failure


def test_a_plan_does_not_tell_of_a_private_base_of_others(hub, models, write):
    hub.commit(BASE, {"x": b"x"}, private=True)
    hub.commit(LORA, _named(models.adapter, BASE))
    outcome, (said,) = write("/merge plan")
    assert outcome.plan is None
    assert json.dumps("llama") not in said
    assert not [r for r in hub.requests if r.user == "merge-bot" and BASE in r.path]
