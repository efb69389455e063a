"""The Hub's door through the real client: what happens on the loopback Hub, as its webhook tells of it."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from bot import connect
from bot.config.models import Ask, Config, Defaults, Watch
from bot.doors.ground import HubGround
from bot.doors.hub import answer
from bot.doors.pace import Pace
from bot.errors import InputError, RefusedError, StoppedError
from bot.job import Now, Outcome
from bot.jobs import ordering, pushed
from bot.jobs.order import Order
from bot.progress import Silent
from bot.publish.marker import find_job, marker
from bot.request import Destination
from bot.serial import as_dict, from_dict
from bot.settings import load
from bot.trigger.hub import Ignored, event
from tests.clients.hub_fixtures import hub
from tests.jobs.memory import MemoryDesk

__all__ = ["hub"]
LORA, BASE = "alice/lora", "acme/base"
FILES = {
    "adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": BASE}),
    "adapter_model.safetensors": b"weights",
}
WATCHED = Config(watch=(Watch(owners=("alice", "acme")),))


def below(folder, **changes):
    return {f"{folder}/{name}": changes.get(name, data) for name, data in FILES.items()}


@pytest.fixture(autouse=True)
def told(hub):
    """The bot's own account, with a webhook on everything; where it leads to is nobody's business here."""
    token = hub.add_user("merge-bot", orgs=("alice", "acme"))
    watched = [{"type": "user", "name": "alice"}, {"type": "org", "name": "acme"}]
    HfApi(endpoint=hub.url, token=token).create_webhook(url="http://127.0.0.1:9/", watched=watched)


@pytest.fixture
def desk():
    return MemoryDesk()


@pytest.fixture
def ground(hub, desk, tmp_path):
    """A process of the service: a client of its own each time, as after a restart."""

    def ground(repository=LORA, *, config=WATCHED, run="delivery-1", **more):
        settings = load({"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token("merge-bot")})
        return HubGround(
            settings=settings,
            config=config,
            repository=repository,
            connect=lambda: connect.discussions(settings, repository=repository),
            progress=Silent(),
            run=run,
            url="",
            folder=tmp_path / "work",
            pace=Pace(every=0),
            sleep=lambda _: None,
            **{"settle": ordering.Enqueueing(desk=desk), "jobs": ordering.Queue(desk=desk), **more},
        )

    return ground


@pytest.fixture
def happened(hub, ground):
    """Answers the last thing that the webhook was told of."""

    def happened(**more):
        payload = hub.deliveries[-1].payload
        return answer(event(payload), ground=ground(payload["repo"]["name"], **more))

    return happened


@pytest.fixture
def write(hub, happened):
    """Somebody comments in the one discussion of alice's adapter, and it is answered."""

    def write(body, *, by="alice", **more):
        HfApi(endpoint=hub.url, token=hub.token(by)).comment_discussion(LORA, 1, body)
        return happened(**more)

    return write


@pytest.fixture
def discussion(hub):
    hub.commit(LORA, FILES)
    alice = HfApi(endpoint=hub.url, token=hub.token("alice"))
    alice.create_discussion(LORA, "Questions", description="Hello")
    return alice


def ours(hub, number=1, repository=LORA):
    api = HfApi(endpoint=hub.url, token=hub.token("alice"))
    events = api.get_discussion_details(repository, number).events
    return [e for e in events if e.type == "comment" and e.author == "merge-bot"]


def only(desk):
    (entry,) = desk.jobs.values()
    return entry.order


# pushes


def test_a_push_is_a_merge_of_what_lies_there_by_the_rules(hub, happened, desk):
    commit = hub.commit(LORA, FILES | below("small") | {"notes/README.md": "x"})
    answered = happened()
    assert answered.results == ()
    whole, small = sorted((entry.order for entry in desk.jobs.values()), key=lambda o: o.job.what)
    assert (whole.request.adapter, small.request.adapter) == (f"{LORA}@{commit}", f"{LORA}@{commit}:small")
    assert whole.request.destination == Destination(kind="repository", location="alice/lora-merged")
    assert small.request.destination.location == "alice/lora-merged-small"
    assert (whole.origin.host, whole.origin.repository, whole.origin.number) == ("watch", LORA, None)
    assert not whole.request.attended
    assert from_dict(Order, json.loads(json.dumps(as_dict(whole)))) == whole


def test_a_later_push_is_about_what_it_changes(hub, happened, desk):
    hub.commit(LORA, FILES | below("a") | below("b"))
    hub.commit(LORA, below("b", **{"adapter_model.safetensors": b"other"}) | {"a/README.md": "about it"})
    happened()
    assert [entry.order.job.what for entry in desk.jobs.values()] == ["alice/lora:b"]


def test_the_same_push_twice_is_one_job(hub, happened, desk):
    hub.commit(LORA, FILES)
    happened(run="1")
    happened(run="2")
    assert len(desk.jobs) == 1


def test_the_destination_knows_the_base(hub, happened, desk):
    config = Config(
        watch=(Watch(owners=("alice",), destination="acme/{base_name}-{name}", publish="hub_pr"),),
        defaults=Defaults(runner="pool:gpu", validation="tensors"),
    )
    hub.commit(LORA, FILES)
    happened(config=config)
    assert only(desk).request.destination == Destination(kind="hub_pr", location="acme/base-lora")
    assert (only(desk).runner, only(desk).request.validation) == ("pool:gpu", "tensors")


def test_checkpoints_beside_a_finished_adapter_are_left_alone(hub, happened, desk):
    hub.commit(LORA, FILES | below("checkpoint-10") | below("run/checkpoint-5"))
    happened()
    assert sorted(e.order.job.what for e in desk.jobs.values()) == [LORA, f"{LORA}:run/checkpoint-5"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"README.md": "x"}, "no adapter"),
        ({"adapter_config.json": "{}"}, "no adapter"),  # its weights may come with the next push
        (FILES | {"README.md": marker("a" * 32)}, "published by us"),
        (FILES | {"merge-bot.yml": "merge: false\n"}, "opts out"),
    ],
)
def test_a_push_that_asks_for_nothing_says_why(hub, happened, desk, files, why):
    hub.commit(LORA, files)
    (note,) = happened().notes
    assert why in note
    assert not desk.jobs


def test_a_repository_that_no_rule_watches_is_not_looked_at(hub, happened, desk):
    hub.commit(LORA, FILES)
    hub.clear_requests()
    (note,) = happened(config=Config(watch=(Watch(owners=("acme",)),))).notes
    assert "watched by no rule" in note
    assert hub.requests == ()


def test_a_merge_bot_yml_that_is_wrong_is_an_error(hub, happened):
    hub.commit(LORA, FILES | {"merge-bot.yml": "mergee: true\n"})
    with pytest.raises(InputError, match=r"Line 1 of merge-bot\.yml"):
        happened()


def test_what_is_in_a_hub_pr_is_not_pushed(hub, happened, desk):
    hub.commit(LORA, {"README.md": "x"})
    bob = HfApi(endpoint=hub.url, token=hub.token("bob"))
    operations = [CommitOperationAdd("adapter_config.json", b"{}")]
    bob.create_commit(LORA, operations, commit_message="Mine", create_pr=True)
    payloads = [d.payload for d in hub.deliveries if d.payload["event"]["scope"] == "repo.content"]
    assert payloads[-1]["updatedRefs"][0]["ref"] == "refs/pr/1"
    assert answer(event(payloads[-1]), ground=None).results == ()


def test_watching_asks_for_the_same_as_a_webhook(hub, happened, desk, ground):
    commit = hub.commit(LORA, FILES)
    happened(run="")
    settings = ground().settings
    assert pushed.orders(LORA, commit, config=WATCHED, settings=settings) == (only(desk),)
    nothing = pushed.orders(LORA, commit, before=commit, config=WATCHED, settings=settings)
    assert isinstance(nothing, Ignored)
    gone = pushed.orders("alice/gone", commit, config=WATCHED, settings=settings)
    assert "is gone" in gone.reason


# commands


def test_a_command_is_a_job_and_its_comment_is_edited_to_the_end(hub, discussion, write, desk, ground):
    write("/merge --dtype float16")
    order = only(desk)
    assert order.request.adapter == f"{LORA}@{discussion.model_info(LORA).sha}"
    assert order.request.destination.location == "alice/lora-merged"
    assert (order.request.dtype, order.request.requester_access) == ("float16", "unknown")
    assert (order.request.requester_owns, order.job.asked_by) == (("alice",), "alice")
    assert (order.origin.host, order.origin.number) == ("hub", 1)
    stored = from_dict(Order, json.loads(json.dumps(as_dict(order))))
    first = ordering.answering(stored, ground=ground())
    assert first.begin() is None
    first.tell(Now(stage="merging", done=1, total=2))
    again = ordering.answering(stored, ground=ground())  # another process, after a crash
    assert again.begin() is None
    again.check()
    again.end(Outcome(ended="skipped"))
    (said,) = ours(hub)
    assert find_job(said.content).state == "skipped"
    assert "GitHub" not in said.content
    assert "```yaml" not in said.content


def test_a_command_under_a_hub_pr_is_about_its_head(hub, write, desk, ground):
    hub.commit(LORA, {"README.md": "x"})
    bob = HfApi(endpoint=hub.url, token=hub.token("bob"))
    files = {name: data.encode() if isinstance(data, str) else data for name, data in FILES.items()}
    operations = [CommitOperationAdd(name, data) for name, data in files.items()]
    made = bob.create_commit(LORA, operations, commit_message="Mine", create_pr=True)
    write("/merge")
    order = only(desk)
    assert (order.request.adapter, order.job.head_sha) == (f"{LORA}@{made.oid}", made.oid)
    thread = ordering.answering(order, ground=ground())
    thread.begin()
    more = [CommitOperationAdd("adapter_model.safetensors", b"better")]
    bob.create_commit(LORA, more, commit_message="More", revision="refs/pr/1")
    with pytest.raises(RefusedError, match="The head was"):
        thread.check()
    write("/merge", run="delivery-2")
    first, second = desk.jobs.values()
    assert first.order.job.thread == second.order.job.thread
    ordering.answering(second.order, ground=ground(run="delivery-2")).begin()
    assert len(ours(hub)) == 1


def test_a_pinned_head_that_has_moved_is_told(hub, discussion, write, desk):
    write(f"/merge --head {'a' * 12}")
    assert "The head was" in ours(hub)[0].content
    assert not desk.jobs


def test_the_first_comment_of_a_discussion_may_be_the_command(hub, happened, desk):
    hub.commit(LORA, FILES)
    HfApi(endpoint=hub.url, token=hub.token("alice")).create_discussion(
        LORA, "Merge it", description="/merge plan"
    )
    happened()
    assert only(desk).job.verb == "plan"


def test_strangers_are_declined_politely_and_once(hub, discussion, write, desk):
    write("/merge", by="bob")
    write("/merge plan", by="bob")
    (said,) = ours(hub)
    assert "Commands are for the owner of alice/lora" in said.content
    assert not desk.jobs


@pytest.mark.parametrize("ask", [Ask(users=("b*",)), Ask(organizations=("helpers",))])
def test_who_is_on_a_list_may_ask_for_what_the_rules_allow(hub, discussion, write, desk, ask):
    hub.add_user("bob", orgs=("helpers",))
    config = WATCHED.model_copy(update={"ask": ask})
    write("/merge", by="bob", config=config)
    assert only(desk).request.requester_owns == ("bob",)
    desk.jobs.clear()
    write("/merge --to bob/merged", by="bob", config=config)
    assert only(desk).request.destination.location == "bob/merged"
    desk.jobs.clear()
    write("/merge --to acme/merged", by="bob", config=config)
    assert "is not below the name of the one who asks" in ours(hub)[0].content
    assert not desk.jobs


@pytest.mark.parametrize("options", ["", " --public", " --pr"])
@pytest.mark.parametrize("publish", ["hub_pr", "repository"])
def test_who_names_the_ruled_destination_cannot_loosen_the_rule(discussion, write, desk, publish, options):
    rule = Watch(owners=("alice",), destination="acme/official", publish=publish)
    write(f"/merge --to Acme/official{options}", config=Config(watch=(rule,)))
    kind = "hub_pr" if options == " --pr" else publish
    assert only(desk).request.destination == Destination(kind=kind, location="acme/official")


def test_what_goes_where_the_rules_say_is_checked_as_they_say(hub, discussion, write, desk):
    config = Config(watch=(Watch(owners=("alice",), destination="acme/official", validation="tensors"),))
    for line in ("/merge --validate structure", "/merge --to acme/official --validate structure"):
        write(line, config=config)
        assert "want the checks tensors, and structure are fewer" in ours(hub)[0].content
    assert not desk.jobs
    for line in ("/merge --validate full", "/merge --to alice/mine --validate structure"):
        write(line, config=config)
    wanted = {e.order.request.destination.location: e.order.request.validation for e in desk.jobs.values()}
    assert wanted == {"acme/official": "full", "alice/mine": "structure"}


def test_an_adapter_elsewhere_needs_a_destination_of_its_own(hub, discussion, write, desk):
    write("/merge bob/other --to alice/out")
    assert (only(desk).request.adapter, only(desk).request.destination.location) == (
        "bob/other@main",
        "alice/out",
    )
    desk.jobs.clear()
    write("/merge bob/other")
    assert only(desk).request.destination is None  # the job says what is missing
    desk.jobs.clear()
    write("/merge alice/lora")
    assert only(desk).request.destination.location == "alice/lora-merged"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("/merge pln", "Did you mean /merge plan?"),
        ("/merge help", "Merge the adapter of this repository"),
        ("/merge status", "There is no job under this discussion"),
        ("/merge cancel", "No job is going on under this discussion"),
        ("/merge retry", "There is no command here to be repeated"),
        ("/merge --folder nowhere --head zz", "is not what --head takes"),
    ],
)
def test_what_starts_no_job_is_answered_by_one_notice(hub, discussion, write, desk, body, says):
    write(body)
    (said,) = ours(hub)
    assert says in said.content
    assert "GitHub PR" not in said.content.replace("GitHub PR or", "").replace("of the GitHub PR, or", "")
    assert not desk.jobs


def test_several_adapters_want_a_name(hub, discussion, write, desk):
    hub.commit(LORA, below("small"))
    write("/merge")
    assert "There are several adapters: the one at its root, small" in ours(hub)[0].content
    write("/merge --folder small")
    assert only(desk).request.adapter.endswith(":small")


def test_status_cancel_and_retry(hub, discussion, write, desk, ground):
    write("/merge")
    order = only(desk)
    thread = ordering.answering(order, ground=ground())
    thread.begin()
    write("/merge status", run="2")
    assert any("waits in the queue" in said.content for said in ours(hub))
    write("/merge cancel", run="3")
    assert desk.jobs[order.job.key].state != "queued"
    thread.end(Outcome(ended="skipped"))
    desk.end(order.job.key, Outcome(ended="skipped"))
    write("/merge retry", run="4")
    assert desk.jobs[order.job.key].order.job.run == "4"
    assert desk.jobs[order.job.key].attempt == 2


def test_a_hidden_command_was_taken_back(hub, discussion, write, desk, ground):
    write("/merge")
    thread = ordering.answering(only(desk), ground=ground())
    thread.begin()
    said = [
        e for e in discussion.get_discussion_details(LORA, 1).events if getattr(e, "content", "") == "/merge"
    ]
    with pytest.warns(UserWarning, match="irreversible"):
        discussion.hide_discussion_comment(LORA, 1, said[0].id)
    with pytest.raises(StoppedError, match="was deleted"):
        thread.check()


def test_a_closed_discussion_stops_the_job(hub, discussion, write, desk, ground):
    write("/merge")
    thread = ordering.answering(only(desk), ground=ground())
    thread.begin()
    discussion.change_discussion_status(LORA, 1, "closed")
    with pytest.raises(StoppedError, match="The discussion was closed meanwhile"):
        thread.check()


def test_our_own_comments_are_no_commands(hub, discussion, write, desk):
    (note,) = write("/merge", by="merge-bot").notes
    assert "our own comment" in note
    assert not desk.jobs


def test_edits_ask_for_nothing(hub, discussion, write, happened, desk):
    write("Thanks!")
    said = discussion.get_discussion_details(LORA, 1).events[-1]
    discussion.edit_discussion_comment(LORA, 1, said.id, "/merge")
    assert "asks for nothing" in happened().notes[0]
    assert not desk.jobs


def test_a_comment_whose_answer_was_lost_is_not_posted_twice(hub, discussion, write, desk, ground):
    write("/merge")
    hub.clear_requests()
    hub.fault("/discussions/1/comment$", method="POST", drop_after=0, times=1)
    thread = ordering.answering(only(desk), ground=ground())
    assert thread.begin() is None
    (post,) = [r for r in hub.requests if r.path.endswith("/discussions/1/comment")]
    assert (post.status, post.bytes_sent) == (200, 0)
    thread.end(Outcome(ended="skipped"))
    (said,) = ours(hub)
    assert find_job(said.content).state == "skipped"


def test_the_name_of_the_bot_is_asked_for_once(hub, discussion, write):
    hub.clear_requests()
    write("/merge help")
    assert sum(r.path == "/api/whoami-v2" for r in hub.requests) == 1


def test_a_stranger_text_in_an_answer_is_text(hub, discussion, write):
    write("/merge @everybody<img>")
    (said,) = ours(hub)
    assert "<img>" not in said.content
    assert "@everybody" not in said.content
