"""action.yml, executed step by step: with the real command line, and with inputs that would like to be scripts."""

import os
import re
import shutil
import signal
import subprocess

import pytest
import yaml

from bot import __version__
from bot.trigger.inputs import INPUTS, OUTPUTS
from tests.action import lists
from tests.action.runner import ROOT, SHELLS, Runner
from tests.e2e import ADAPTER, hub, models

__all__ = ["hub", "models"]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
HARMLESS = {"error", "warning", "notice", "group", "endgroup", "add-mask", "stop-commands", "debug"}
NASTY = {
    "a script": "$(touch pwned) `touch pwned` '; touch pwned; \"; touch pwned; '",
    "lines": "a\ntouch pwned\n::set-output name=outcome::published\nEOF\noutcome=published\n",
    "an option": "--help",
    "an expression": "${{ secrets.HF_TOKEN }}",
    "a command": "::set-output name=outcome::published",
    "a command from before": "a ##[set-output name=outcome]published",
    "an escaped command": "a%0A::set-output name=outcome::published",
}


@pytest.fixture
def machine(tmp_path, path, hub):
    """A job's machine whose Hub is the loopback Hub, and whose checkout is empty."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    environment = hub.environment() | {"PATH": path, "MERGE_BOT_SCRATCH": str(tmp_path)}
    yield Runner(tmp_path, environment=environment, workspace=workspace)
    hub.clear_faults()


# what is written down


def test_action_yml_and_the_docs_have_the_inputs_and_outputs_of_the_table():
    assert lists.action(lists.ACTION.read_text(encoding="utf-8")) == lists.ACTION.read_text(encoding="utf-8")
    assert lists.page(lists.PAGE.read_text(encoding="utf-8")) == lists.PAGE.read_text(encoding="utf-8")
    assert list(ACTION["inputs"]) == [one.name for one in INPUTS]
    assert list(ACTION["outputs"]) == list(OUTPUTS)


def test_every_input_is_handed_over_once_and_none_is_part_of_a_script():
    merge = next(step for step in ACTION["runs"]["steps"] if step["name"] == "Merge")
    handed = {name: value for name, value in merge["env"].items() if name.startswith("INPUT_")}
    assert handed == {one.variable: f"${{{{ inputs.{one.name} }}}}" for one in INPUTS if not one.setup}
    assert not [step["run"] for step in ACTION["runs"]["steps"] if "${{" in step.get("run", "")]


def test_the_marketplace_takes_it():
    assert len(ACTION["description"]) < 125
    assert ACTION["branding"].keys() == {"icon", "color"}


# what it does


def test_an_environment_that_has_merge_bot_is_used_as_it_is(machine, hub):
    ran = machine.action(ROOT, adapter=ADAPTER, dry_run="true", hf_token=hub.token("alice"))
    assert ran.steps == ["Look for merge-bot", "Merge"]
    assert not ran.failed, machine.log
    assert ran.outputs["outcome"] == "skipped"
    assert re.fullmatch("[0-9a-f]{40}", ran.outputs["adapter-commit"])


@pytest.mark.parametrize("name", NASTY)
def test_no_input_is_ever_more_than_text(machine, tmp_path, name):
    ran = machine.action(ROOT, adapter=NASTY[name], to=NASTY[name], base=NASTY[name])
    assert ran.failed
    assert ran.outputs["outcome"] in {"refused", "failed"}
    assert not [*tmp_path.rglob("pwned"), *ROOT.glob("pwned")]
    assert not {command.name for command in machine.commands} - HARMLESS
    assert "Traceback" not in machine.log


def test_a_cancelled_run_is_told_to_merge_bot(tmp_path):
    command, script = tmp_path / "merge-bot", tmp_path / "step.sh"
    command.write_text(
        "#!/bin/bash\ntrap 'echo told; exit 130' INT\necho ready\nfor ((;;)); do sleep 0.1; done\n"
    )
    command.chmod(0o755)
    script.write_text(next(step["run"] for step in ACTION["runs"]["steps"] if step["name"] == "Merge"))
    step = subprocess.Popen(
        [*SHELLS["bash"], str(script)],
        env={
            "PATH": os.environ["PATH"],
            "MERGE_BOT": str(command),
            "RUNNER_TEMP": str(tmp_path),
            "GITHUB_ACTION_PATH": str(ROOT),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert step.stdout.readline() == "ready\n"
    step.send_signal(signal.SIGINT)  # to the step's process alone, as GitHub's runner does
    assert step.communicate(timeout=20)[0] == "told\n"
    assert step.returncode == 130


def test_in_a_container_a_cancelled_run_is_told_to_merge_bot_by_the_next_step(machine, tmp_path, hub):
    """Where no signal arrives: the step is gone, and merge-bot is not."""
    hub.clear_requests()
    hub.fault("/blobs/", hang=60.0)
    machine.cancels = lambda: any(request.path.startswith("/blobs/") for request in hub.requests)
    ran = machine.action(ROOT, adapter=ADAPTER, to="alice/never", hf_token=hub.token("alice"))
    assert ran.steps[-2:] == ["Merge", "Tell of a cancelled run"]
    assert "is told that the run was cancelled" in machine.log
    assert "did not end" not in machine.log
    assert "was cancelled" in "".join(p.read_text() for p in tmp_path.rglob("GITHUB_STEP_SUMMARY"))
    assert hub.state.store.find("model", "alice/never") is None


@pytest.mark.parametrize("left", ["", "999999999", "words; touch pwned", str(os.getpid())])
def test_only_a_merge_bot_is_told(tmp_path, left):
    (tmp_path / "merge-bot.pid").write_text(f"{left}\n")
    done = subprocess.run(
        [str(ROOT / ".github/action/cancelled.sh")],
        env={"PATH": os.environ["PATH"], "RUNNER_TEMP": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [p.name for p in tmp_path.iterdir()] == []


# installing it


@pytest.fixture
def bare(tmp_path):
    """A machine without merge-bot, whose uv writes down what it is told and makes a merge-bot that does so too."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cut", "sed", "sha256sum", "mkdir", "chmod", "touch"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "uv").write_text(
        "#!/usr/bin/env bash\n"
        f'printf "%s\\n" "$@" >>{tmp_path}/told\n'
        'if [[ $1 == venv ]]; then mkdir -p "${@: -1}/bin"; '
        'echo "#!/usr/bin/env bash" >"${@: -1}/bin/merge-bot"; '
        f'echo \'echo "merge-bot, version {__version__}"\' >>"${{@: -1}}/bin/merge-bot"; '
        'chmod +x "${@: -1}/bin/merge-bot"; fi\n'
    )
    (tools / "uv").chmod(0o755)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    environment = {"PATH": str(tools)}
    return Runner(tmp_path, environment=environment, workspace=workspace, left_out={"Set up uv", "Merge"})


def told(tmp_path):
    path = tmp_path / "told"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("system", ["Windows", "macOS"])
def test_on_other_systems_one_sentence_says_so_before_anything_is_installed(path, tmp_path, system):
    other = Runner(tmp_path, environment={"PATH": path, "RUNNER_OS": system})
    ran = other.action(ROOT)
    assert (ran.failed, ran.steps) == (True, ["Look for merge-bot"])
    (command,) = other.commands
    assert command.name == "error"
    assert "runs on Linux" in command.text


def test_where_there_is_none_it_is_installed_from_the_action_itself(bare, tmp_path):
    ran = bare.action(ROOT)
    assert not ran.failed, bare.log
    assert ran.steps == ["Look for merge-bot", "Install merge-bot"]
    said = told(tmp_path)
    assert said[: said.index("pip")] == [
        "venv", "--quiet", "--clear", "--python", "3.12", f"{bare.temp}/merge-bot",
    ]  # fmt: skip
    assert f"{ROOT}[github]" in said
    assert said[said.index("--constraint") + 1] == f"{ROOT}/constraints.txt"
    assert said[said.index("--torch-backend") + 1] == "auto"
    (tmp_path / "told").unlink()
    assert bare.action(ROOT).steps == ["Look for merge-bot"]  # the second time in a job it is there
    assert not told(tmp_path)


def test_a_release_is_installed_on_request(bare, tmp_path):
    assert not bare.action(ROOT, version="1.2.3").failed
    assert "adapter-merge-bot[github]==1.2.3" in told(tmp_path)
    assert str(ROOT) not in " ".join(told(tmp_path))


@pytest.mark.parametrize("given", ["version", "python"])
@pytest.mark.parametrize("value", ["1.0 --index-url=https://evil.example", *NASTY.values()])
def test_a_version_that_is_none_is_not_handed_to_uv(bare, tmp_path, given, value):
    ran = bare.action(ROOT, **{given: value})
    assert ran.failed
    assert not told(tmp_path)
    assert not [*tmp_path.rglob("pwned"), *ROOT.glob("pwned")]
    assert [command.name for command in bare.commands] == ["error"]
    assert given in bare.commands[0].text


def test_another_version_is_not_taken_for_the_wanted_one(tmp_path, path):
    def keys(**given):
        found = Runner(
            tmp_path / str(len(list(tmp_path.iterdir()))),
            environment={"PATH": path},
            left_out={"Set up uv", "Install merge-bot", "Merge"},
        )
        found.action(ROOT, **given)
        return next(found.temp.rglob("GITHUB_OUTPUT")).read_text()

    assert keys().startswith("merge-bot=")
    other, python = keys(version="9.9.9"), keys(version="9.9.9", python="3.13")
    assert other.startswith("cache-key=merge-bot-")
    assert python.startswith("cache-key=merge-bot-")
    assert other != python
