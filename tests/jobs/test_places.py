"""What people of a GitHub repository may do with the service's tokens: by the configuration, and not by their role."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bot.config.models import Config
from bot.config.rule_models import GitHubRule
from bot.doors.control import Place
from bot.doors.github import answer
from bot.doors.rights import Rights
from bot.errors import InputError, StoppedError
from bot.jobs import ordering, rows
from bot.jobs.answers import Answerer
from bot.jobs.inbox import Delivery
from bot.jobs.places import Places, thread_of
from bot.publish.marker import find_job
from bot.settings import load
from tests.doors import memory
from tests.hub.server import LoopbackHub
from tests.jobs.memory import MemoryDesk
from tests.jobs.orders import order

PEOPLE = GitHubRule(repositories=("acme/*",), destinations=("acme/*",))


@pytest.fixture
def desk():
    return MemoryDesk()


@pytest.fixture
def forge():
    return memory.Memory()


@pytest.fixture
def service(desk, tmp_path):
    def service(*rules):
        config = Config(github_rules=rules)
        return Places(config=config, settings=load(), office=desk, folder=tmp_path, seen=None)

    return service


@pytest.fixture
def happens(forge, desk, service, tmp_path):
    """An event is answered; gives all orders."""

    def happens(event, *rules):
        made = service(*rules)._on_github(forge.repository, run="delivery-1", folder=tmp_path)
        answer(event, ground=replace(made, connect=lambda: forge, sleep=pytest.fail))
        return [entry.order for entry in desk.jobs.values()]

    return happens


@pytest.fixture
def ask(happens):
    """alice, who may push, writes a command."""
    return lambda body, *rules: happens(memory.said(body), *rules)


@pytest.mark.parametrize(
    ("rules", "access"),
    [
        ((), "unknown"),
        ((PEOPLE,), "unknown"),
        ((GitHubRule(repositories=("acme/adapters",), trusted=True), PEOPLE), "yes"),
        ((GitHubRule(repositories=("other/*",), trusted=True),), "unknown"),
    ],
)
def test_a_role_gives_no_access_to_the_operators_models(ask, rules, access):
    (order,) = ask("/merge plan acme/secret-lora", *rules)
    assert order.request.requester_access == access


@pytest.mark.parametrize("to", ["victim/prod", "acme-other/x", "./folder"])
@pytest.mark.parametrize("rules", [(), (PEOPLE,)])
def test_nothing_is_published_where_the_configuration_does_not_say_so(ask, forge, to, rules):
    assert ask(f"/merge mallory/x --base acme/base --to {to} --public", *rules) == []
    assert forge.reactions == ["eyes", "confused"]


def test_the_refusal_says_what_would_do(ask, forge):
    ask("/merge mallory/x --to victim/prod")
    assert "Nothing may be published to victim/prod from acme/adapters." in forge.bodies[-1]
    assert r"github\_rules" in forge.bodies[-1]
    ask("/merge mallory/x --to victim/prod", PEOPLE)
    assert "Write --to with one of acme/\\*" in forge.bodies[-1]


def test_a_rule_names_destinations(ask):
    (order,) = ask("/merge mallory/x --to Acme/prod", PEOPLE)
    assert (order.request.destination.location, order.request.requester_access) == ("Acme/prod", "unknown")


def test_a_push_whose_adapter_a_later_one_has_changed_is_not_published_over_that(desk, tmp_path):
    files = {"adapter_config.json": "{}", "adapter_model.safetensors": "one"}
    with LoopbackHub(tmp_path / "hub") as hub:
        token = hub.add_user("acme")
        first = hub.commit("acme/x", files)
        known = replace(load(), endpoint=hub.url, read_token=token)
        places = Places(config=Config(), settings=known, office=desk, folder=tmp_path, seen=None)
        entry = desk.enqueue(order(f"acme/x@{first}", host="watch", number=None))
        answering = Answerer(places.threads())(entry)
        answering.check()
        hub.commit("acme/x", {"README.md": "A card is no other adapter."})
        answering.check()
        hub.commit("acme/x", {"adapter_model.safetensors": "two"})
        with pytest.raises(StoppedError) as found:
            answering.check()
        assert found.value.code == "overtaken"
        entry = desk.enqueue(order(f"acme/x@{'0' * 40}", host="watch", number=None))
        gone = Answerer(places.threads())(entry)
        with pytest.raises(StoppedError):  # main was pushed anew with another history
            gone.check()
        hub.delete_repo("acme/x")
        gone.check()  # the publication says what is wrong, if anything is


def test_a_delivery_says_which_thread_it_comes_from():
    hubs = {"repo": {"name": "acme/x"}, "discussion": {"num": 3}}
    githubs = {
        "repository": {"full_name": "acme/y"},
        "issue": {"number": 4},
        "comment": {"id": 1, "body": ""},
    }
    told = [("hub", "discussion.comment", hubs), ("github", "issue_comment", githubs), ("hub", "", {})]
    found = [
        thread_of(Delivery(key="k", source=source, event=event, body=json.dumps(body).encode()))
        for source, event, body in told
    ]
    assert found == [("hub", "acme/x", 3), ("github", "acme/y", 4), None]


def test_an_action_is_as_it_was():
    assert Rights().access("write") == "yes"
    assert Rights().access("read") == "unknown"


@pytest.mark.parametrize("known", ["whole", "short", "none"])
def test_a_forged_mark_reaches_no_job_of_another_thread_and_nobody_waits(ask, forge, desk, tmp_path, known):
    """Whoever may push may edit the bot's comment, and with it the key of the job that it is about."""
    (mine,) = ask("/merge plan mallory/x")
    ordering.answering(mine, ground=memory.ground(forge, tmp_path)).begin()
    job = replace(mine.job, key=f"{'f' * 32}-{memory.HEAD[:12]}", head_sha=memory.HEAD)
    if known != "none":
        desk.enqueue(replace(mine, job=job, origin=replace(mine.origin, repository="victim/adapters")))
    (number,) = forge.said
    forged = "f" * (9 if known == "short" else 32)
    said = forge.said[number]
    forge.said[number] = replace(said, body=said.body.replace(mine.job.thread, forged))
    assert find_job(forge.said[number].body).key.startswith(forged)
    ask("/merge cancel")
    assert {entry.state for entry in desk.jobs.values()} == {"queued"}
    assert find_job(forge.said[number].body).state not in {"queued", "running", "cancelling"}


def test_a_job_of_this_thread_is_cancelled(ask, forge, desk, tmp_path):
    (mine,) = ask("/merge plan mallory/x")
    ordering.answering(mine, ground=memory.ground(forge, tmp_path)).begin()
    ask("/merge cancel")
    assert desk.jobs[mine.job.key].state == "cancelling"


def test_a_job_that_waits_for_its_turn_without_a_comment_is_told_of(ask, forge):
    ask("/merge plan mallory/x")
    ask("/merge status")
    (said,) = forge.bodies
    assert "alice: the last job waits in the queue." in said


def test_a_job_that_waits_for_its_turn_without_a_comment_is_cancelled_in_its_thread(ask, forge, desk):
    (mine,) = ask("/merge plan mallory/x")
    elsewhere = replace(mine, job=replace(mine.job, key="e" * 32), origin=replace(mine.origin, number=8))
    desk.enqueue(elsewhere)
    assert forge.said == {}
    ask("/merge cancel")
    assert {key: entry.state for key, entry in desk.jobs.items()} == {
        mine.job.key: "cancelling",
        elsewhere.job.key: "queued",
    }
    assert forge.said == {}


def test_among_many_jobs_that_wait_those_of_a_thread_are_looked_for_a_few_at_a_time(ask, desk, monkeypatch):
    """Thousands may wait; all of them at once would be more than a server may hold."""
    (mine,) = ask("/merge plan mallory/x")
    for number in range(450):
        desk.enqueue(order(f"acme/x{number}", host="watch", number=None))
    held, entries = [], desk.entries
    monkeypatch.setattr(desk, "entries", lambda **given: held.append(found := entries(**given)) or found)
    at = Place(mine.origin.host, mine.origin.repository, mine.origin.number)
    assert ordering.Queue(desk=desk).newest(at=at) == mine.job.key
    assert [len(found) for found in held] == [200, 200, 51]
    assert ordering.Queue(desk=desk).newest(at=at._replace(number=99)) is None


@pytest.mark.parametrize(("forks", "jobs"), [(False, 0), (True, 1)])
def test_a_strangers_fork_is_planned_by_itself_only_where_a_rule_says_so(
    happens, forge, tmp_path, forks, jobs
):
    (tmp_path / "mine").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "mine" / name).write_text("{}")
    forge.files["mine"] = tmp_path / "mine"
    forge.pull = replace(forge.pull, is_fork=True, head_repository="bob/adapters")
    rule = GitHubRule(repositories=("acme/*",), forks=forks)
    orders = happens(memory.pushed(), rule)
    assert len(orders) == jobs
    assert {rows.requester(order) for order in orders} <= {
        "github:bob"
    }  # who opened it, and not its repository's
    (order,) = happens(memory.said("/merge doctor --folder mine"), rule)[jobs:]
    assert rows.requester(order) == "github:alice"


def test_what_is_fetched_fits_into_what_was_set_aside(service, ask, forge, tmp_path, monkeypatch):
    (order,) = ask("/merge plan --folder mine")
    limits = []
    forge.download_folder = lambda *_, limit, into, **__: (
        limits.append(limit),
        (into / "adapter_config.json").write_text("{}"),
    )
    monkeypatch.setattr(Places, "_forge", lambda *_: forge)
    service().fetch(order, tmp_path / "scratch", 1000)
    assert limits == [1000]


def test_without_a_token_of_the_services_own_the_advice_is_for_who_runs_it(service, forge, tmp_path):
    ground = service(PEOPLE)._on_github(forge.repository, run="delivery-1", folder=tmp_path)
    with pytest.raises(InputError) as raised:
        _ = ground.forge
    assert (raised.value.code, "[github]" in raised.value.advice) == ("github-closed", True)
