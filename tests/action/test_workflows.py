"""Our workflows and the examples of the docs: what zizmor and actionlint do not ask for. `make lint` runs those."""

import re

import pytest
import yaml

from bot.trigger.inputs import INPUTS
from tests.action.expressions import condition
from tests.action.runner import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FILES = [ROOT / "action.yml", *WORKFLOWS]
PAGES = [ROOT / "README.md", ROOT / "docs/action.md"]
PIN = re.compile(r"uses: (?!\./)(\S+?)@(\S+)(.*)")


def parsed(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def examples():
    for page in PAGES:
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            yield pytest.param(yaml.safe_load(block), id=f"{page.name}: {block.splitlines()[0]}")


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_begins_with_no_rights_and_every_job_ends(path):
    workflow = parsed(path)
    assert workflow["permissions"] == {}
    assert "concurrency" in workflow
    for job in workflow["jobs"].values():
        assert "permissions" in job
        assert "timeout-minutes" in job or "uses" in job
    assert not [step for step in steps(workflow) if "${{" in step.get("run", "")]
    assert all(
        step["with"]["persist-credentials"] is False
        for step in steps(workflow)
        if "checkout" in step.get("uses", "")
    )


def test_actions_of_others_are_pinned_to_one_commit_each():
    pins = {}
    for path in FILES:
        for name, pin, comment in PIN.findall(path.read_text(encoding="utf-8")):
            assert re.fullmatch("[0-9a-f]{40}", pin), name
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), name
            pins.setdefault(name, set()).add((pin, comment))
    assert pins
    assert not {name: found for name, found in pins.items() if len(found) > 1}


def head(repository):
    """Of a GitHub PR, as GitHub's expressions see it: what is not there is null."""
    return {"head": {"repo": {"full_name": repository}}}


@pytest.mark.parametrize(
    ("body", "kind", "event", "starts"),
    [
        ("/merge plan", "User", {"issue": {"pull_request": {"url": "…"}}, "pull_request": head(None)}, True),
        ("/MERGE", "User", {"issue": {"pull_request": None}, "pull_request": head("acme/own")}, True),
        ("/merge", "User", {"issue": {"pull_request": None}, "pull_request": head("eve/fork")}, False),
        ("/merge", "User", {"issue": {"pull_request": None}, "pull_request": head(None)}, False),
        ("/merge", "Bot", {"issue": {"pull_request": {"url": "…"}}, "pull_request": head(None)}, False),
        (
            "please /merge",
            "User",
            {"issue": {"pull_request": {"url": "…"}}, "pull_request": head(None)},
            False,
        ),
    ],
)
def test_a_machine_is_started_for_commands_only(body, kind, event, starts):
    job = parsed(ROOT / ".github/workflows/merge-command.yml")["jobs"]["merge"]
    said = event | {"comment": {"body": body, "user": {"type": kind}}}
    assert condition(job["if"], {"github": {"event": said, "repository": "acme/own"}}) is starts


@pytest.mark.parametrize("example", list(examples()))
def test_an_example_uses_inputs_that_exist(example):
    ours = [step for step in steps(example) if "adapter-merge-bot@" in step.get("uses", "")]
    assert ours
    assert all(step["uses"].endswith("@COMMIT") for step in ours)
    known = {one.name: one for one in INPUTS}
    for name, value in [pair for step in ours for pair in step.get("with", {}).items()]:
        assert not known[name].choices or str(value).lower() in known[name].choices
