"""`make demo`, watched by nobody: it checks its own promises, so its exit code says it all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.demo"]


@pytest.fixture
def environment(tmp_path):
    """What the demo leaves behind would lie in `tmp_path`; a token of the machine must not reach it."""
    wrong = {"HF_TOKEN": "hf_wrong", "HF_HUB_OFFLINE": "1", "MERGE_BOT_WRITE_TOKEN": "hf_wrong"}
    return dict(os.environ) | wrong | {"TMPDIR": str(tmp_path)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_promise_of_the_demo_holds(environment, tmp_path):
    done = subprocess.run(COMMAND, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert not done.stderr
    assert "Warning" not in done.stdout
    assert "promises hold" in done.stdout.splitlines()[-1]
    assert not list(tmp_path.glob("merge-bot-demo-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_can_be_stopped_at_any_time(environment, tmp_path, number):
    demo = subprocess.Popen(
        COMMAND, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = ""
    while "of 180" not in said:  # in the middle of the training
        said += (line := demo.stdout.readline())
        assert line, said
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert rest.splitlines()[-1].startswith("Stopped")
    assert "Traceback" not in rest
    assert not list(tmp_path.glob("merge-bot-demo-*"))
