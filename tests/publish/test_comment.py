"""The answers under a GitHub PR: golden files for each state, strangers' text in every field, and the hidden marks."""

from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from bot.diagnosis import Candidate, Diagnosis, Finding
from bot.job import Failure, Job, Now, Outcome
from bot.publish import comment
from bot.publish.host import GITHUB
from bot.publish.marker import Mark, find_job, job_marker, remarked
from bot.publish.outcome_text import title
from bot.records import Pinned, Publication
from bot.request import Destination
from bot.trigger.command import HELP
from tests.publish.samples import a_plan, a_report, hostile_evidence
from tests.publish.test_model_card import HOSTILE, golden

JOB = Job(
    key="f" * 32,
    what="alice/cat-lora",
    asked_by="alice",
    ask="/merge alice/cat-lora --to alice/cat-7b",
    head_sha="c" * 40,
    run="77-1",
    url="https://github.com/acme/adapters/actions/runs/77",
)
PLAN = a_plan()
PUBLISHED = Publication(
    destination=Destination(kind="repository", location="alice/cat-7b", public=True),
    url="https://huggingface.co/alice/cat-7b",
    commit="d" * 40,
)
DONE = Outcome(
    ended="published",
    plan=PLAN,
    report=a_report(PLAN),
    publication=PUBLISHED,
    seconds=125.0,
    public=True,
    cost=12,
)
PROPOSED = replace(
    PUBLISHED,
    destination=Destination(kind="hub_pr", location="alice/cat-lora"),
    url="https://huggingface.co/alice/cat-lora/discussions/3",
    number=3,
)
REFUSED = Outcome(
    ended="refused",
    failure=Failure(
        code="wider-than-base", sentence="The base is gated.", advice="Publish to a private one.", exit_code=3
    ),
    seconds=1.0,
)
NO_TOKEN = Failure(code="no-token", sentence="Publishing needs a token.", advice="Set one.", exit_code=5)
SICK = Diagnosis(
    adapter="/tmp/x/adapter",
    verdict="repairable",
    findings=(
        Finding(kind="repair", rule="r", key="r", before="16", after=16, reason="PEFT wants a number"),
        Finding(kind="inert", rule="r", key="loftq_config", before={}, after=None, reason="does nothing"),
    ),
    base=(Candidate(named_by="adapter_config.json", name="acme/base-7b", commit="b" * 40, fits=True),),
)
STATES = {
    "queued": comment.working(JOB, Now(), at=1),
    "merging": comment.working(JOB, Now(stage="merging", done=43 * 10**7, total=10**9), at=2),
    "published": comment.finished(JOB, DONE, at=3),
    "published_before": comment.finished(
        JOB, replace(DONE, ended="skipped", report=None, publication=replace(PUBLISHED, existed=True)), at=3
    ),
    "hub_pr": comment.finished(JOB, replace(DONE, publication=PROPOSED, public=False), at=3),
    "dry_run": comment.finished(JOB, replace(DONE, ended="skipped", publication=None), at=3),
    "planned": comment.finished(
        replace(JOB, verb="plan"), Outcome(ended="skipped", plan=PLAN, diagnosis=SICK), at=3
    ),
    "diagnosed": comment.finished(
        replace(JOB, verb="doctor"), Outcome(ended="skipped", diagnosis=SICK), at=3
    ),
    "refused": comment.finished(JOB, REFUSED, at=3),
    "no_token": comment.finished(JOB, Outcome(ended="failed", failure=NO_TOKEN), at=3),
    "failed_checks": comment.finished(
        JOB,
        Outcome(
            ended="failed",
            failure=Failure(
                code="validation-changed", sentence="It failed.", advice="Report it.", exit_code=7
            ),
            plan=PLAN,
            report=a_report(PLAN, verdict="failed"),
        ),
        at=3,
    ),
    "cancelled": comment.finished(
        JOB,
        Outcome(
            ended="skipped",
            failure=Failure(code="cancelled", sentence="It was cancelled.", advice="Again?", exit_code=3),
        ),
        at=3,
    ),
    "notice": comment.notice("'plna' is neither.", "Did you mean /merge plan?", to="bob"),
    "help": comment.helping(
        (("/merge", GITHUB.merges), *HELP),
        [("--to", "The Hub repository for the result.")],
        thread=GITHUB.thread,
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_each_state_looks_like_its_golden_file(state):
    golden(f"comment_{state}.md", STATES[state])


def test_pictures_are_shown_only_where_everybody_can_see_them():
    place = "https://huggingface.co/alice/cat-7b/resolve/" + "d" * 40 + "/merge_report/"
    assert STATES["published"].count(place) == 5
    private = comment.finished(JOB, replace(DONE, public=False), at=3)
    assert "![" not in private
    assert "alice/cat-7b" in private


def _hostile():
    named = replace(JOB, what=HOSTILE, ask="/merge x", asked_by="@everyone", url="")
    plan = a_plan(
        notes=(HOSTILE,),
        peft_type=HOSTILE,
        adapter=Pinned(kind="hub", location=HOSTILE, commit="a" * 40),
    )
    report = a_report(plan, evidence=hostile_evidence(HOSTILE), device=HOSTILE)
    failure = Failure(code=HOSTILE, sentence=HOSTILE, advice=HOSTILE, exit_code=3)
    finding = Finding(
        kind="refusal", rule="r", key=HOSTILE, before=1, after=None, reason=HOSTILE, advice=HOSTILE
    )
    sick = Diagnosis(
        adapter="x",
        verdict="refused",
        findings=(finding,),
        base=(Candidate(named_by=HOSTILE, name=HOSTILE, commit="c"),),
    )
    done = replace(DONE, plan=plan, report=report, failure=failure, diagnosis=sick)
    yield comment.finished(named, done, at=1)
    yield comment.finished(named, replace(done, failure=None), at=1)
    yield comment.finished(replace(named, verb="doctor"), Outcome(ended="refused", diagnosis=sick), at=1)
    yield comment.working(named, Now(stage="merging"), at=1)
    yield comment.notice(HOSTILE, HOSTILE, to=HOSTILE)
    yield comment.summary(named, done)
    yield comment.remark(HOSTILE)


@pytest.mark.parametrize("text", list(_hostile()))
def test_strangers_text_is_shown_and_does_nothing(text):
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert "<script" not in rendered.replace("&lt;script", "")
    assert "@everyone" not in text
    for target in _targets(text):
        assert not target or target.startswith(("https://huggingface.co/", JOB.url)), target
    assert text.count("<!-- adapter-merge-bot") <= 1
    assert rendered.count("</details>") == rendered.count("<details>")


def _targets(text):
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        for child in token.children or []:
            yield str(child.attrs.get("href", "")) + str(child.attrs.get("src", ""))


def test_no_folder_of_the_runner_is_told():
    failure = replace(
        NO_TOKEN, sentence="/tmp/merge-bot-1/adapters/x/adapter_config.json cannot be read: denied."
    )
    for text in (
        comment.finished(JOB, Outcome(ended="failed", failure=failure), at=1),
        title(JOB, Outcome(ended="failed", failure=failure)),
        STATES["planned"],
    ):
        assert "/tmp/" not in text


def test_a_long_result_is_shorter_than_github_allows():
    plan = a_plan(notes=tuple(HOSTILE * 5 for _ in range(300)))
    assert len(comment.finished(JOB, replace(DONE, plan=plan), at=1)) < 65_536


def test_a_mark_is_read_back_from_the_beginning_of_a_comment_only():
    mark = Mark(job="f" * 32, state="running", run="77-1", at=1_700_000_000, ask="/merge ä/b --to --> x")
    text = f"{job_marker(mark)}\nwords"
    assert find_job(text) == mark
    assert find_job(f"> {text}") is None
    ended = remarked(text, replace(mark, state="cancelling"))
    assert find_job(ended).state == "cancelling"
    assert ended.endswith("\nwords")


@pytest.mark.parametrize(
    "odd", [{"job": "a b"}, {"run": "-->"}, {"state": "x y"}, {"at": -1}, {"ask": "x" * 10_000}]
)
def test_a_mark_that_could_not_be_read_back_is_an_error(odd):
    with pytest.raises(ValueError):
        job_marker(replace(Mark(job="a", state="running"), **odd))
