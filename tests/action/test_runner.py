"""The runner itself: it has to be as obedient as GitHub's, or it would prove nothing."""

import pytest
import yaml

from tests.action.expressions import condition, evaluate, interpolate
from tests.action.files import commands, pairs
from tests.action.runner import Outputs, Runner

CONTEXTS = {
    "inputs": {"a": "x", "empty": "", "on": True, "nasty": "${{ inputs.a }}"},
    "steps": {"one": {"outputs": Outputs(b="y")}},
    "github": {"event": {"issue": None}},
    "job": {"failed": False, "cancelled": False},
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("inputs.a", "x"),
        ("inputs.empty || steps.one.outputs.b", "y"),
        ("steps.one.outputs.unset == ''", True),
        ("inputs.a == 'X' && !inputs.empty", True),
        ("(inputs.a != 'x') || 'it''s'", "it's"),
        ("github.event.issue.pull_request", None),
        ("startsWith(inputs.a, 'X')", True),
        ("always()", True),
        ("failure()", False),
        ("cancelled()", False),
    ],
)
def test_expressions_have_githubs_meaning(expression, value):
    assert evaluate(expression, CONTEXTS) == value


@pytest.mark.parametrize(
    "expression",
    ["inputs.unknown", "steps.two.outputs.b", "fromJSON('1')", "inputs.a ==", "1 + 1", "inputs['a']", "x y"],
)
def test_what_is_not_known_is_an_error(expression):
    with pytest.raises((KeyError, ValueError)):
        evaluate(expression, CONTEXTS)


def test_values_are_put_in_once():
    assert interpolate("<${{ inputs.nasty }}|${{ inputs.on }}>", CONTEXTS) == "<${{ inputs.a }}|true>"
    assert condition("${{ inputs.on }}", CONTEXTS)
    assert not condition("inputs.empty", CONTEXTS)


def test_commands_are_obeyed_in_both_forms_until_they_are_stopped():
    stopped = "::stop-commands::k\n::error::2\n::k::\n"
    log = f"x ##[set-output name=a]1\n  ::error title=t,line=3::no%0Away\n{stopped}::debug::3"
    assert [(c.name, c.given, c.text) for c in commands(log)] == [
        ("set-output", {"name": "a"}, "1"),
        ("error", {"title": "t", "line": "3"}, "no\nway"),
        ("debug", {}, "3"),
    ]


def test_files_hold_lines_and_blocks(tmp_path):
    file = tmp_path / "output"
    file.write_text("a=b<<c=d\n\nplan<<END\n{\n}\nEND\n")
    assert pairs(file) == {"a": "b<<c=d", "plan": "{\n}"}
    for wrong in ("no sign", "a<<END\nb\n"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=r"Invalid format|delimiter"):
            pairs(file)


def made(tmp_path, *steps):
    folder = tmp_path / "made"
    folder.mkdir(parents=True)
    action = {
        "inputs": {"a": {"default": ""}},
        "outputs": {"b": {"value": "${{ steps.one.outputs.b }}"}},
        "runs": {"using": "composite", "steps": list(steps)},
    }
    (folder / "action.yml").write_text(yaml.safe_dump(action))
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return folder, Runner(tmp_path, environment={"PATH": "/usr/bin:/bin"}, workspace=workspace)


def test_an_input_inside_a_script_is_run_here_as_it_is_there(tmp_path):
    folder, machine = made(tmp_path, {"id": "one", "shell": "bash", "run": "echo ${{ inputs.a }}"})
    machine.action(folder, a="$(touch pwned)")
    assert (tmp_path / "workspace/pwned").exists()
    assert machine.action(folder, a="::set-output name=b::c").outputs == {"b": "c"}


def test_a_failed_step_ends_an_action_but_for_what_runs_always(tmp_path):
    folder, machine = made(
        tmp_path,
        {"id": "one", "shell": "bash", "run": 'echo "b=1" >>"$GITHUB_OUTPUT"; echo "N=2" >>"$GITHUB_ENV"'},
        {"name": "falls", "shell": "bash", "run": "false | true"},
        {"name": "not reached", "shell": "bash", "run": "true"},
        {"name": "tidy", "if": "always()", "shell": "bash", "run": 'echo "$N" >>"$GITHUB_STEP_SUMMARY"'},
    )
    ran = machine.action(folder)
    assert ran.failed
    assert (ran.steps, ran.outputs, machine.summary) == (["one", "falls", "tidy"], {"b": "1"}, "2\n")


def test_actions_of_others_and_unknown_inputs_are_errors(tmp_path):
    folder, machine = made(tmp_path, {"uses": "actions/checkout@v4"})
    with pytest.raises(ValueError, match="not here"):
        machine.action(folder)
    with pytest.raises(KeyError, match="unexpected"):
        machine.action(folder, c="")
