"""`merge-bot action`: a step's environment in, outputs, page, annotations and exit code out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bot import publishing
from bot.doors import step
from bot.job import Failure, Job, Outcome
from bot.records import Check
from bot.serial import as_dict
from bot.trigger.inputs import OUTPUTS
from tests.e2e import ADAPTER, desk, hub, models, processes
from tests.publish.samples import a_plan

__all__ = ["desk", "hub", "models", "processes"]


@pytest.fixture
def run(desk, tmp_path):
    """Runs the step for an event with these inputs; gives exit code, outputs, page and what was printed."""

    def run(event, payload=None, **inputs):
        place = tmp_path / "runner"
        place.mkdir(exist_ok=True)
        files = {name: place / name for name in ("event.json", "output", "summary.md")}
        for file in files.values():
            file.write_text("")
        files["event.json"].write_text(payload if isinstance(payload, str) else json.dumps(payload or {}))
        desk.set(
            GITHUB_EVENT_NAME=event,
            GITHUB_EVENT_PATH=str(files["event.json"]),
            GITHUB_OUTPUT=str(files["output"]),
            GITHUB_STEP_SUMMARY=str(files["summary.md"]),
            GITHUB_REPOSITORY="acme/adapters",
            GITHUB_RUN_ID="77",
            RUNNER_TEMP=str(place),
            **dict.fromkeys(("GITHUB_TOKEN", "INPUT_GITHUB_TOKEN"), ""),
            **{f"INPUT_{name.upper()}": value for name, value in {"validate": "structure", **inputs}.items()},
        )
        answer = desk("action")
        return answer, outputs(files["output"].read_text()), files["summary.md"].read_text()

    return run


def outputs(text):
    """GITHUB_OUTPUT as the runner reads it."""
    found = {}
    while text:
        head, text = text.split("\n", 1)
        name, delimiter = head.split("<<", 1)
        value, text = text.split(f"\n{delimiter}\n", 1)
        found[name] = value
    return found


def test_a_dispatched_workflow_publishes(run, desk):
    answer, told, page = run("workflow_dispatch", adapter=ADAPTER, to="alice/step-1", validate="tensors")
    assert answer.code == 0, answer.err
    assert set(told) == set(OUTPUTS)
    assert (told["outcome"], told["repository"], told["pull-request-url"]) == (
        "published",
        "alice/step-1",
        "",
    )
    assert told["commit"] == desk.hub.state.store.find("model", "alice/step-1").main
    plan = json.loads(told["plan"])
    assert (plan["adapter"]["commit"], plan["base"]["commit"]) == (
        told["adapter-commit"],
        told["base-commit"],
    )
    report = Path(told["report"])
    assert report.read_text().startswith("# Merge report")
    assert json.loads(report.with_name("merge_report.json").read_text())["verdict"] == "passed"
    assert "alice/step-1" in page
    assert "# Merge report" in page
    assert "![" not in page  # a private repository's pictures are nobody's to see
    assert answer.out.startswith("::notice title=adapter-merge-bot::")


def test_what_was_published_is_skipped(run):
    run("push", adapter=ADAPTER, to="alice/step-2")
    answer, told, _ = run("schedule", adapter=ADAPTER, to="alice/step-2")
    assert (answer.code, told["outcome"], told["repository"]) == (0, "skipped", "alice/step-2")


def test_a_relayed_hub_webhook_merges_what_was_pushed(run, desk):
    commit = desk.hub.state.store.find("model", ADAPTER).main
    hook = {
        "repo": {"type": "model", "name": ADAPTER, "headSha": commit},
        "updatedRefs": [{"ref": "refs/heads/main"}],
    }
    _, told, _ = run("repository_dispatch", {"client_payload": hook}, to="alice/step-hook")
    assert (told["outcome"], told["adapter-commit"]) == ("published", commit)


def test_without_a_destination_it_is_planned(run, desk):
    before = desk.state()
    answer, told, page = run("workflow_dispatch", adapter=ADAPTER)
    assert (answer.code, told["outcome"]) == (0, "skipped")
    assert told["plan"]
    assert "can be merged" in page
    assert desk.state() == before


def test_a_folder_is_a_destination_too(run, desk):
    answer, told, _ = run("workflow_dispatch", adapter=str(desk.adapter()), to=str(desk.out))
    assert (answer.code, told["outcome"], told["repository"]) == (0, "published", "")
    assert (desk.out / "model.safetensors").is_file()


REFUSED = {"adapter": "alice/step-prompts", "to": "alice/step-refused"}
BROKEN = {"adapter": "alice/step-none", "to": "alice/step-refused"}


@pytest.mark.parametrize(
    ("inputs", "fail_on", "code"),
    [
        (REFUSED, "refused", 3),
        (REFUSED, "validation", 0),
        (REFUSED, "never", 0),
        (BROKEN, "refused", 2),
        (BROKEN, "validation", 2),
        (BROKEN, "never", 0),
    ],
)
def test_the_exit_code_is_as_fail_on_says(run, desk, inputs, fail_on, code):
    if not desk.hub.state.store.find("model", "alice/step-prompts"):
        desk.push("alice/step-prompts", desk.adapter("prompts", peft_type="PROMPT_TUNING"))
    answer, told, page = run("push", **inputs, fail_on=fail_on)
    assert answer.code == code
    assert told["outcome"] == ("refused" if inputs is REFUSED else "failed")
    assert told["summary"] in page.replace("\\", "")
    assert answer.out.startswith("::error title=adapter-merge-bot::")
    assert desk.hub.state.store.find("model", "alice/step-refused") is None


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"dtype": "float7"}, "The input dtype is 'float7'."),
        ({"pr": "maybe"}, "The input pr is 'maybe'."),
        ({"adapter": "./x", "adapter_revision": "v1", "to": "a/b"}, "takes no revision"),
        ({"adapter": ADAPTER, "to": "a/b/c"}, "neither a folder nor a Hub repository"),
        ({"adapter": "$(touch pwned)", "to": "a/b"}, "neither a folder nor a Hub repository"),
    ],
)
def test_wrong_inputs_fail_with_one_sentence(run, desk, inputs, said):
    answer, told, page = run("workflow_dispatch", **inputs)
    assert answer.code == 2
    assert said in told["summary"]
    assert told["outcome"] == "failed"
    assert said.replace("'", "") in page.replace("'", "")
    assert not (desk.root / "pwned").exists()


@pytest.mark.parametrize("payload", ["", "{", "[]", "null"])
@pytest.mark.parametrize("event", ["issue_comment", "pull_request", "push", "odd"])
def test_a_payload_that_is_none_is_no_bug(run, event, payload):
    answer, told, _ = run(event, payload)
    assert answer.code in {0, 2}
    assert told["outcome"] in {"skipped", "failed"}


def test_a_value_cannot_end_its_output(tmp_path):
    value = "x\nend_0\noutcome<<end_0\npublished\nend_0\n"
    file = tmp_path / "output"
    step.write_outputs(file, {"summary": value, "outcome": "failed"})
    assert outputs(file.read_text()) == {"summary": value, "outcome": "failed"}
    delimiters = re.findall(r"<<(end_[0-9a-f]{32})$", file.read_text(), re.MULTILINE)
    assert len(set(delimiters)) == 2


def test_an_annotation_is_one_line_whatever_the_text():
    line = step.annotation("error", "100 %\r\n::set-output name=x::y\n::error::z hf_" + "a" * 40)
    assert line == "::error title=adapter-merge-bot::100 %25  ::set-output name=x::y ::error::z [hidden]"


def test_a_plan_that_no_variable_could_hold_is_shortened():
    plan = a_plan()
    assert json.loads(step.compact(plan)) == json.loads(json.dumps(as_dict(plan)))
    long = a_plan(bindings=plan.bindings * 1000)
    short = json.loads(step.compact(long))
    assert (short["shortened"], short["bindings"], short["key"]) == (True, [], plan.key)
    assert len(step.compact(a_plan(adapter_config={"x": "y" * 200_000}))) < 1000


def test_no_token_is_in_an_output(tmp_path):
    failure = Failure(code="x", sentence=f"hf_{'a' * 40} is bad.", advice="-", exit_code=5)
    told = step.outputs(Job(key="", what="x"), Outcome(ended="failed", failure=failure), folder=tmp_path)
    assert told["summary"] == "[hidden] is bad."


def test_a_failed_check_shows_the_whole_report(run, desk, monkeypatch):
    answers = publishing.room.call

    def broken(function, *arguments, **named):
        found = answers(function, *arguments, **named)
        wrong = Check(name="published", verdict="failed", figure="", detail="Made to fail.")
        return wrong if function == "bot.work:load" else found

    monkeypatch.setattr(publishing.room, "call", broken)
    answer, told, page = run("push", adapter=ADAPTER, to="alice/step-wrong", validate="structure")
    assert (answer.code, told["outcome"]) == (7, "failed")
    assert told["adapter-commit"] == json.loads(told["plan"])["adapter"]["commit"]
    assert "Made to fail." in Path(told["report"]).read_text()
    assert "| published | failed |" in page
    assert desk.hub.state.store.find("model", "alice/step-wrong") is None


def test_ones_own_prompts_are_asked(run, desk):
    prompts = desk.root / "prompts.txt"
    prompts.write_text("one two three\n")
    _, told, page = run("push", adapter=ADAPTER, to=str(desk.out), validate="full", prompts=str(prompts))
    assert told["outcome"] == "published"
    assert "one two three" in page
