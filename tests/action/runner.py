"""Executes the steps of our action and of our workflows by bash, as GitHub's runner does, with its files and commands.

Expressions inside `run:` are put into the script as text, which is what makes them dangerous. Actions of others are not
there: a step that uses one has to be left out by name.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.action.expressions import Contexts, condition, interpolate
from tests.action.files import NAMES, Command, commands, pairs

ROOT = Path(__file__).parents[2]
KEYS = {"name", "id", "if", "uses", "with", "shell", "env", "run"}
STATUS = ("always()", "cancelled()", "failure()", "success()")
SHELLS = {None: ["bash", "-e"], "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"]}
SECONDS = 170


class Outputs(dict[str, str]):
    """Of a step: what it has not set is empty."""

    def __missing__(self, name: str) -> str:
        return ""


@dataclass
class Ran:
    """What a job or an action left behind; `steps` are the names of those that ran."""

    outputs: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    steps: list[str] = field(default_factory=list)


class Runner:
    """One job's machine. `environment` is all that its processes see beside what GitHub sets.

    `cancels` is asked while a step goes on, and says when somebody cancels the run. As in a job in a container, where
    GitHub ends the `docker exec` and not what it has started, the step is left to itself then.
    """

    def __init__(
        self,
        root: Path,
        *,
        environment: Mapping[str, str],
        workspace: Path = ROOT,
        github: Mapping[str, Any] | None = None,
        left_out: Collection[str] = (),
    ) -> None:
        self.cancels: Callable[[], bool] = lambda: False
        self.cancelled = False
        self.temp, self.workspace, self.left_out = root / "temp", workspace, left_out
        self.github = {"token": "ghs_of_the_job", "event": {}, "event_name": "workflow_dispatch"} | dict(
            github or {}
        )
        self.log, self.summary = "", ""
        self.commands: list[Command] = []
        self._environment = self._set(root) | dict(environment)
        self._steps = 0

    def _set(self, root: Path) -> dict[str, str]:
        """https://docs.github.com/en/actions/reference/workflows-and-actions/variables"""
        for folder in (self.temp, root / "home"):
            folder.mkdir(parents=True)
        event = root / "event.json"
        event.write_text(json.dumps(self.github["event"]), encoding="utf-8")
        return {
            "CI": "true",
            "GITHUB_ACTOR": "alice",
            "GITHUB_API_URL": "http://127.0.0.1:9",  # nobody answers there
            "GITHUB_ACTIONS": "true",
            "GITHUB_EVENT_NAME": self.github["event_name"],
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_REF": "refs/heads/main",
            "GITHUB_REPOSITORY": "acme/models",
            "GITHUB_RUN_ID": "1",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_SHA": "0" * 40,
            "GITHUB_WORKSPACE": str(self.workspace),
            "HOME": str(root / "home"),
            "RUNNER_OS": "Linux",
            "RUNNER_TEMP": str(self.temp),
        }

    def action(self, folder: Path, **given: str) -> Ran:
        """Runs a composite action with these inputs, `_` for `-`."""
        return self._action(folder, {name.replace("_", "-"): value for name, value in given.items()}, {})

    def job(self, workflow: Path, name: str, **contexts: Any) -> Ran:
        """Runs the steps of a workflow's job."""
        steps = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"][name]["steps"]
        return self._all(steps, {"github": self.github, **contexts}, {})

    def _action(self, folder: Path, given: Mapping[str, str], environment: Mapping[str, str]) -> Ran:
        action = yaml.safe_load((folder / "action.yml").read_text(encoding="utf-8"))
        assert action["runs"].keys() == {"using", "steps"}
        assert action["runs"]["using"] == "composite"
        if unknown := given.keys() - action["inputs"].keys():
            raise KeyError(f"unexpected inputs: {sorted(unknown)}")
        outside = {"github": self.github}
        defaults = {
            name: interpolate(_text(one["default"]), outside) for name, one in action["inputs"].items()
        }
        contexts = outside | {"inputs": defaults | given}
        place = {"GITHUB_ACTION_PATH": f"{folder}/."}  # so it ends for `uses: ./`
        ran = self._all(action["runs"]["steps"], contexts, {**environment, **place})
        for name, output in action["outputs"].items():
            ran.outputs[name] = interpolate(output["value"], contexts)
        return ran

    def _all(self, steps: list[dict[str, Any]], contexts: Contexts, environment: Mapping[str, str]) -> Ran:
        ran, told, job = Ran(), {}, {"failed": False, "cancelled": self.cancelled}
        assert isinstance(contexts, dict)
        contexts.update(steps=told, job=job)
        for step in steps:
            assert not step.keys() - KEYS, step
            title, asked = step.get("name") or step.get("id") or step.get("uses"), step.get("if", "success()")
            outputs = told.setdefault(step.get("id", title), {"outputs": Outputs()})["outputs"]
            over = job["failed"] or job["cancelled"]
            if (over and not any(word in asked for word in STATUS)) or not condition(asked, contexts):
                continue
            if title.partition("@")[0] in self.left_out:
                continue
            ran.steps.append(title)
            mine = {name: interpolate(_text(value), contexts) for name, value in step.get("env", {}).items()}
            one = self._step(step, contexts, {**environment, **mine})
            outputs.update(one.outputs)
            job["failed"] |= one.failed and not self.cancelled
            job["cancelled"] = self.cancelled
        ran.failed = job["failed"] or job["cancelled"]
        return ran

    def _step(self, step: dict[str, Any], contexts: Contexts, environment: Mapping[str, str]) -> Ran:
        if "run" in step:
            return self._run(step, interpolate(step["run"], contexts), environment)
        if step["uses"] != "./":
            raise ValueError(f"{step['uses']} is not here")
        given = {name: interpolate(_text(value), contexts) for name, value in step.get("with", {}).items()}
        return self._action(self.workspace, given, environment)

    def _run(self, step: dict[str, Any], script: str, environment: Mapping[str, str]) -> Ran:
        self._steps += 1
        folder = self.temp / "_runner_file_commands" / str(self._steps)
        folder.mkdir(parents=True)
        files = {name: folder / name for name in NAMES}
        for path in (*files.values(), folder / "step.sh"):
            path.touch()
        (folder / "step.sh").write_text(script, encoding="utf-8")
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*SHELLS[step.get("shell")], str(folder / "step.sh")],
                env=self._environment | dict(environment) | {name: str(path) for name, path in files.items()},
                cwd=self.workspace,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        code = self._waited(process)
        return Ran(outputs=self._told(log.read_text(encoding="utf-8"), files), failed=code != 0)

    def _waited(self, process: subprocess.Popen[bytes]) -> int | None:
        """The exit code; None for a step that was left to itself."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(0.05)
            if not self.cancelled and self.cancels():
                self.cancelled = True
                threading.Thread(target=process.wait, daemon=True).start()  # or it would stay a zombie
                return None
        process.kill()
        raise TimeoutError(f"a step took more than {SECONDS} seconds")

    def _told(self, log: str, files: Mapping[str, Path]) -> dict[str, str]:
        found = list(commands(log))
        self.commands += found
        self.log += log
        self.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        self._environment |= pairs(files["GITHUB_ENV"])
        for line in files["GITHUB_PATH"].read_text(encoding="utf-8").splitlines():
            self._environment["PATH"] = line + os.pathsep + self._environment["PATH"]
        spoken = {c.given["name"]: c.text for c in found if c.name == "set-output"}
        return spoken | pairs(files["GITHUB_OUTPUT"])


def _text(value: Any) -> str:
    """YAML's `true` is the string `true` there."""
    return str(value).lower() if isinstance(value, bool) else str(value)
