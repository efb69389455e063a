"""Commands and GitHub PRs, from event to last word: the real pipeline, a loopback Hub, a code host in memory."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from bot import publishing
from bot.doors.github import answer
from bot.errors import AccessError, HostError
from bot.publish.marker import Mark, find_job, job_marker
from bot.publish.pictures import pictures
from bot.request import Destination
from tests.doors.memory import HEAD, Memory, ground, pushed, said
from tests.e2e import ADAPTER, BASE, desk, hub, models, processes
from tests.tiny.adapters import edit_config

__all__ = ["desk", "hub", "models", "processes"]
DOWN = HostError("GitHub answered with status 502.", advice="Later.", code="github-down")
NO_SCOPE = AccessError("The token may not comment.", advice="Add it.", code="github-permission")
MERGE = f"/merge {ADAPTER} --to alice/out"


@pytest.fixture
def forge():
    return Memory()


@pytest.fixture
def ask(forge, desk, tmp_path):
    """Answers a comment (or another event)."""

    def ask(body, *, by="alice", text="", run="1-1", **more):
        happened = said(body, by=by, text=text) if isinstance(body, str) else body
        return answer(happened, ground=ground(forge, tmp_path / "work", run=run, **more))

    return ask


def only(answer):
    ((_, outcome),) = answer.results
    return outcome


def on_hub(desk, repo_id):
    return desk.hub.state.store.find("model", repo_id)


# What goes well


def test_a_command_ends_in_a_published_model_and_one_tidy_comment(forge, ask, desk):
    outcome = only(ask(f"{MERGE}-1 --public", validate="tensors"))
    assert (outcome.ended, outcome.publication.destination.location) == ("published", "alice/out-1")
    assert forge.reactions == ["eyes", "rocket"]
    assert len(forge.said) == 1
    assert find_job(forge.bodies[0]).state == "published"
    assert forge.bodies[0].count("![") == len(pictures(outcome.report.evidence)) > 0
    for shown in ("alice/out-1", "All checks passed", "To undo it", "It took", "Asked by alice"):
        assert shown in forge.bodies[0]
    stages = ["queued", "planning", "fetching", "merging", "validating", "publishing"]
    told = re.findall(rf"\*\*({'|'.join(stages)})", "\n".join(forge.edits))
    assert list(dict.fromkeys(told)) == stages[1:]
    assert told == sorted(told, key=stages.index)
    (verdict,) = forge.verdicts
    assert (verdict["sha"], verdict["state"]) == (HEAD, "success")


def test_asked_again_it_is_found_and_told_in_the_same_comment(forge, ask):
    ask(f"{MERGE}-2")
    outcome = only(ask(f"{MERGE}-2", run="2-1"))
    assert outcome.ended == "skipped"
    assert outcome.publication.existed
    assert len(forge.said) == 1
    assert "earlier run" in forge.bodies[0]


def test_who_asked_is_told_in_the_hub_pr(forge, ask, desk):
    desk.push("alice/own-folder", desk.models.adapter)
    outcome = only(ask("/merge alice/own-folder --to alice/own-folder --pr"))
    assert outcome.publication.number
    texts = "".join(p.read_text(errors="replace") for p in desk.hub.state.root.rglob("*.json"))
    assert "on request of alice" in texts


def test_the_adapter_may_be_a_folder_of_the_pr(forge, ask, desk):
    forge.files["adapters/mine"] = desk.adapter("mine", base=BASE)
    outcome = only(ask("/merge --to alice/out-3"))
    assert outcome.ended == "published"
    assert "adapters/mine" in forge.bodies[0]
    assert "/work/" not in forge.bodies[0]


def test_the_adapter_may_be_a_link_in_the_description(forge, ask):
    text = f"Trained on https://huggingface.co/{BASE}, see https://huggingface.co/{ADAPTER}."
    assert only(ask("/merge --to alice/out-4", text=text)).ended == "published"


def test_plan_and_doctor_publish_nothing(forge, ask, desk):
    before = desk.state()
    planned, examined = only(ask(f"/merge plan {ADAPTER}")), only(ask(f"/merge doctor {ADAPTER}"))
    assert planned.plan is not None
    assert examined.diagnosis.verdict == "fine"
    assert [find_job(body).state for body in forge.bodies] == ["skipped", "skipped"]
    assert desk.state() == before


def test_a_dry_run_merges_and_publishes_nothing(forge, ask, desk):
    outcome = only(ask(f"{MERGE}-5 --dry-run"))
    assert (outcome.ended, outcome.report.verdict) == ("skipped", "passed")
    assert on_hub(desk, "alice/out-5") is None


def test_what_the_workflow_says_holds_where_the_command_is_silent(forge, ask):
    outcome = only(ask(f"/merge {ADAPTER}", to="alice/out-6", dtype="bfloat16"))
    assert outcome.plan.dtype == "bfloat16"
    assert outcome.plan.destination == Destination(kind="repository", location="alice/out-6")


def test_what_the_command_says_holds_though_it_is_the_default(forge, ask):
    line = f"/merge plan {ADAPTER} --dtype auto --quantized-base original"
    outcome = only(ask(line, to="alice/out-6", dtype="bfloat16", quantized_base="dequantize"))
    assert outcome.plan.dtype == "auto"


def test_help_and_status(forge, ask):
    ask("/merge help")
    assert "/merge retry" in forge.bodies[0]
    ask("/merge status")
    assert "no job" in forge.bodies[0]
    ask(f"/merge plan {ADAPTER}")
    ask("/merge status")
    assert len(forge.said) == 2
    assert "has ended: skipped" in forge.bodies[0]


def test_retry_repeats_the_last_command_in_its_comment(forge, ask):
    ask("/merge plan alice/none")
    assert find_job(forge.bodies[0]).state == "failed"
    ask("/merge retry", run="2-1")
    assert len(forge.said) == 1
    assert (find_job(forge.bodies[0]).run, find_job(forge.bodies[0]).state) == ("2-1", "failed")


def test_nothing_to_retry(forge, ask):
    ask("/merge retry")
    assert "no command here" in forge.bodies[0]


# GitHub PRs by themselves


def test_a_changed_folder_is_examined_and_planned(forge, ask, desk):
    forge.files["adapters/mine"] = desk.adapter("mine", base=BASE)
    outcome = only(ask(pushed()))
    assert outcome.plan is not None
    assert outcome.diagnosis is not None
    assert "can be merged" in forge.bodies[0]
    assert forge.verdicts[0]["state"] == "success"
    assert forge.reactions == []


def test_a_pr_without_adapters_is_left_alone(forge, ask):
    assert ask(pushed()).results == ()
    assert forge.said == {}


def test_a_head_of_our_own_is_merged_where_the_workflow_says_so(forge, ask, desk):
    forge.files["mine"] = desk.adapter("mine", base=BASE)
    assert only(ask(pushed(), to="alice/out-7")).ended == "published"


@pytest.mark.parametrize("odd", [{"is_fork": True, "head_repository": "eve/adapters"}, {"draft": True}])
def test_a_fork_and_a_draft_are_planned_only(forge, ask, desk, odd):
    forge.files["mine"] = desk.adapter("mine", base=BASE)
    forge.pull = replace(forge.pull, **odd)
    assert only(ask(pushed(), to="alice/out-8")).publication is None
    assert on_hub(desk, "alice/out-8") is None


def test_a_fork_is_merged_by_a_maintainers_command(forge, ask, desk):
    forge.files["mine"] = desk.adapter("mine", base=BASE)
    forge.pull = replace(forge.pull, is_fork=True, head_repository="eve/adapters")
    assert only(ask("/merge --to alice/out-9")).ended == "published"


def test_several_folders_are_planned_each_and_not_merged_at_once(forge, ask, desk):
    forge.files |= {"one": desk.adapter("one", base=BASE), "two": desk.adapter("two", base=BASE)}
    assert len(ask(pushed(), to="alice/out").results) == 2
    ask("/merge")
    assert "several adapters: one, two" in forge.bodies[-1]
    assert only(ask("/merge --folder two --to alice/out-10")).ended == "published"


def test_a_strangers_adapter_names_no_folder_of_the_machine(forge, ask, desk):
    forge.files["mine"] = desk.adapter("mine", base=str(desk.models.base))
    outcome = only(ask(pushed()))
    assert outcome.failure.code == "local-base"
    assert forge.verdicts[0]["state"] == "failure"
    edit_config(forge.files["mine"], base_model_name_or_path="")
    (forge.files["mine"] / "adapter_config.json").write_text(
        f"{{'base_model_name_or_path': '{desk.models.base}',}}"
    )
    assert only(ask(pushed())).failure.code == "local-base"


# Bad input: one clear answer, nothing left behind


def test_an_unknown_command_gets_one_notice_however_often(forge, ask, desk):
    before = desk.state()
    assert ask("/merge plna").results == ()
    assert "Did you mean /merge plan?" in forge.bodies[0]
    ask("/merge docter")
    assert len(forge.said) == 1
    assert "/merge doctor" in forge.bodies[0]
    assert forge.reactions == ["eyes", "confused"] * 2
    assert desk.state() == before


@pytest.mark.parametrize("role", ["none", "read", "triage", "odd-role"])
def test_somebody_without_permission_starts_nothing(forge, ask, desk, role):
    forge.roles["eve"] = role
    before = desk.state()
    assert ask(MERGE, by="eve").results == ()
    assert "take the role write" in forge.bodies[0]
    assert forge.reactions == ["eyes", "confused"]
    assert desk.state() == before


def test_who_may_ask_is_configurable(forge, ask):
    forge.roles |= {"eve": "triage", "alice": "write"}
    assert ask(f"/merge plan {ADAPTER}", by="eve", permission="triage").results
    assert ask(f"/merge plan {ADAPTER}", by="alice", permission="admin").results == ()


def test_what_only_the_token_may_read_is_not_published_for_somebody_with_a_lesser_role(forge, ask, desk):
    forge.roles["eve"] = "triage"
    desk.hub.commit("alice/closed-base", desk.models.base, private=True)
    desk.push("alice/closed-lora", desk.models.adapter, base="alice/closed-base")
    line = "/merge alice/closed-lora --to alice/closed-out"
    outcome = only(ask(line, by="eve", permission="triage"))
    assert outcome.failure.code == "no-access"  # no word of what is in it
    assert on_hub(desk, "alice/closed-out") is None
    assert only(ask(line, permission="triage", run="2-1")).ended == "published"
    assert "![" not in forge.bodies[0]


@pytest.mark.parametrize("verb", ["plan", "doctor"])
def test_what_only_the_token_may_read_is_not_told_somebody_with_a_lesser_role(forge, ask, desk, verb):
    forge.roles["eve"] = "triage"
    desk.hub.commit(f"alice/hidden-{verb}", desk.models.base, private=True)
    desk.push(f"alice/open-{verb}", desk.models.adapter, base=f"alice/hidden-{verb}")
    sha = on_hub(desk, f"alice/hidden-{verb}").main
    told = only(ask(f"/merge {verb} alice/open-{verb}", by="eve", permission="triage"))
    assert told.plan is None
    assert sha[:12] not in "".join(forge.bodies)
    assert "shapes fit" not in "".join(forge.bodies)
    assert only(ask(f"/merge {verb} alice/open-{verb}", run="2-1")).failure is None


def test_a_refused_adapter_is_refused_in_the_comment(forge, ask, desk):
    desk.push("alice/prompts", desk.adapter("prompts", peft_type="PROMPT_TUNING"))
    outcome = only(ask("/merge alice/prompts --to alice/out-11"))
    assert outcome.ended == "refused"
    assert forge.bodies[0].splitlines()[1].startswith("### Refused")
    assert "What to do" in forge.bodies[0]
    assert forge.verdicts[0]["state"] == "failure"
    assert forge.reactions == ["eyes", "confused"]
    assert on_hub(desk, "alice/out-11") is None


@pytest.mark.parametrize(
    "line", ["/merge alice/none --to alice/x", f"/merge {ADAPTER}", f"/merge {ADAPTER} --to alice/x.git"]
)
def test_what_cannot_be_is_said(forge, ask, desk, line):
    before = desk.state()
    assert only(ask(line)).failure.advice
    assert len(forge.said) == 1
    assert forge.reactions[-1] == "confused"
    assert desk.state() == before


@pytest.mark.parametrize("pull", [None, "closed", "merged"])
def test_a_pr_that_is_not_open_starts_nothing(forge, ask, desk, pull):
    forge.pull = pull and replace(forge.pull, state=pull)
    assert only(ask(MERGE)).failure.code == "pull-request-closed"
    assert len(forge.said) == 1


def once(forge, happens, *, at):
    """Lets something happen once a comment has shown a stage, when the job looks at it again."""

    def during():
        if any(f"**{at}" in text for text in forge.edits):
            forge.during = lambda: None
            happens()

    forge.during = during


def test_the_last_look_comes_after_all_checks(forge, ask, desk, monkeypatch):
    """A push while the finished model is being loaded, which takes its time."""
    looked = publishing._load

    def load(*given, **named):
        forge.pull = replace(forge.pull, head_sha="b" * 40)
        return looked(*given, **named)

    monkeypatch.setattr(publishing, "_load", load)
    before = desk.state()
    assert only(ask(f"{MERGE}-22")).failure.code == "head-moved"
    assert desk.state() == before


@pytest.mark.parametrize(
    ("happens", "code"),
    [
        (lambda forge: setattr(forge, "pull", replace(forge.pull, head_sha="b" * 40)), "head-moved"),
        (lambda forge: setattr(forge, "pull", replace(forge.pull, state="closed")), "pull-request-closed"),
        (lambda forge: setattr(forge, "pull", None), "pull-request-closed"),
        (lambda forge: forge.said.clear(), "answer-deleted"),
        (lambda forge: forge.commands.clear(), "command-deleted"),
    ],
    ids=["pushed", "closed", "deleted", "answer-deleted", "command-deleted"],
)
def test_what_changes_between_command_and_publication_stops_it(forge, ask, desk, happens, code):
    once(forge, lambda: happens(forge), at="merging")
    before = desk.state()
    outcome = only(ask(f"{MERGE}-12"))
    assert outcome.failure.code == code
    assert desk.state() == before
    if forge.said:
        assert "nothing was published" in forge.bodies[0]


def test_a_head_that_was_named_must_still_be_the_head(forge, ask):
    assert only(ask(f"/merge plan {ADAPTER} --head {'b' * 8}")).failure.code == "head-moved"
    assert only(ask(f"/merge plan {ADAPTER} --head {HEAD[:8].upper()}")).plan is not None


def test_a_cancel_command_stops_the_job(forge, ask, desk):
    once(forge, lambda: ask("/merge cancel", run="2-1"), at="merging")
    before = desk.state()
    assert only(ask(f"{MERGE}-13")).failure.code == "cancelled"
    assert find_job(forge.bodies[0]).state == "skipped"
    assert desk.state() == before


def test_a_cancellation_waits_until_the_job_has_heard(forge, ask):
    mark = Mark(job="f" * 32, state="running", run="9-1", at=int(time.time()))
    comment = forge.post_comment(7, job_marker(mark) + "\nwords")
    seen = []

    def sleep(_):
        seen.append(find_job(forge.said[comment.id].body).state)
        state = "running" if len(seen) == 1 else "skipped"  # the job's own edit came in between
        forge.said[comment.id] = replace(comment, body=job_marker(replace(mark, state=state)) + "\nwords")

    ask("/merge cancel", patience=60.0, sleep=sleep)
    assert seen == ["cancelling", "cancelling"]
    assert forge.reactions == ["eyes", "rocket"]
    assert len(forge.said) == 1


def test_nothing_to_cancel(forge, ask):
    ask("/merge cancel")
    assert "No job is going on" in forge.bodies[0]


def test_a_cancelled_run_says_so(forge, ask, desk):
    def interrupted():
        raise KeyboardInterrupt

    once(forge, interrupted, at="merging")
    before = desk.state()
    with pytest.raises(KeyboardInterrupt):
        ask(f"{MERGE}-14")
    assert find_job(forge.bodies[0]).state == "skipped"
    assert "was cancelled" in forge.bodies[0]
    assert desk.state() == before


def test_a_bug_says_so_without_its_text(forge, ask):
    def breaks():
        raise RuntimeError("/home/secret")

    once(forge, breaks, at="planning")
    with pytest.raises(RuntimeError):
        ask(f"/merge plan {ADAPTER}")
    assert "RuntimeError" in forge.bodies[0]
    assert "secret" not in forge.bodies[0]


def test_the_same_job_is_done_once(forge, ask, desk):
    inner = []
    once(forge, lambda: inner.append(ask(f"{MERGE}-15", run="2-1")), at="merging")
    assert only(ask(f"{MERGE}-15")).ended == "published"
    assert only(inner[0]).ended == "skipped"
    assert "already: https://gh.example/c1" in inner[0].notes[0]
    assert len(forge.said) == 1
    assert forge.reactions == ["eyes", "eyes", "rocket"]


def test_a_job_whose_run_died_is_taken_up(forge, ask):
    ask(f"/merge plan {ADAPTER}")
    mark = find_job(forge.bodies[0])
    dead = replace(mark, state="running", run="0-1", at=mark.at - 3601)
    forge.said[1] = replace(forge.said[1], body=job_marker(dead) + "\nwords")
    assert only(ask(f"/merge plan {ADAPTER}")).plan is not None
    assert len(forge.said) == 1


def test_a_newer_head_takes_over_the_comment(forge, ask, desk):
    forge.files["mine"] = desk.adapter("mine", base=BASE)
    line, inner = "/merge --folder mine --to alice/out-21", []

    def push():
        forge.pull = replace(forge.pull, head_sha="b" * 40)
        edit_config(forge.files["mine"], lora_alpha=3)
        inner.append(ask(line, run="2-1"))

    once(forge, push, at="merging")
    assert only(ask(line)).failure.code == "head-moved"
    assert only(inner[0]).ended == "published"
    (body,) = forge.bodies
    assert (find_job(body).run, find_job(body).state, find_job(body).head) == ("2-1", "published", "b" * 40)


def test_of_two_that_began_in_one_moment_one_goes_on(forge, ask):
    post = forge.post_comment

    def both(number, body):
        forge.post_comment = post
        mine = post(number, body)
        post(number, body.replace("run=1-1", "run=2-1"))
        return mine

    forge.post_comment = both
    assert only(ask(f"/merge plan {ADAPTER}")).plan is None
    assert "being done already: https://gh.example/c2" in forge.bodies[0]


def test_a_strangers_copy_of_a_mark_stops_nobody(forge, ask):
    ask(f"/merge plan {ADAPTER}")
    running = forge.bodies[0].replace("state=skipped", "state=running").replace("run=1-1", "run=6-6")
    forge.said[50] = replace(forge.said[1], id=50, author="eve", body=running)
    assert only(ask(f"/merge plan {ADAPTER}")).plan is not None


def test_a_github_that_stumbles_stops_no_merge(forge, ask):
    once(forge, lambda: forge.errors.update(edit_comment=DOWN, react=DOWN, verdict=DOWN), at="merging")
    answered = ask(f"{MERGE}-16")
    assert only(answered).ended == "published"
    assert any("502" in note for note in answered.notes)


def test_what_cannot_be_looked_at_again_is_not_published(forge, ask, desk):
    once(forge, lambda: forge.errors.update(comment=DOWN), at="merging")
    before = desk.state()
    assert only(ask(f"{MERGE}-20")).failure.code == "github-down"
    assert "502" in forge.bodies[0]
    assert desk.state() == before


def test_a_github_that_is_down_starts_none(forge, ask, desk):
    forge.errors["permission"] = DOWN
    before = desk.state()
    with pytest.raises(HostError):
        ask(MERGE)
    assert desk.state() == before


def test_a_token_that_may_not_comment_merges_and_says_what_lacks(forge, ask):
    forge.errors |= {"post_comment": NO_SCOPE, "verdict": NO_SCOPE, "react": NO_SCOPE}
    answered = ask(f"{MERGE}-17")
    assert only(answered).ended == "published"
    assert any("may not comment" in note for note in answered.notes)


def test_a_hub_token_that_may_not_write_is_answered_with_what_to_add(forge, ask, desk):
    desk.set(HF_TOKEN=desk.hub.token("alice", role="read"))
    outcome = only(ask(f"{MERGE}-18"))
    assert outcome.ended == "failed"
    assert "hf-token: ${{ secrets.HF_TOKEN }}" in forge.bodies[0]
    assert on_hub(desk, "alice/out-18") is None


def test_without_any_hub_token_the_block_of_yaml_is_shown(forge, ask, desk):
    desk.sit(None)
    assert only(ask(f"{MERGE}-19")).failure.code == "no-token"
    assert "id-token: write" in forge.bodies[0]
