"""The worker: what it can see, what it can reach, how it ends, and how it says what went wrong."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bot import pipeline
from bot.errors import InternalError, MergeError, RefusedError, ValidationError
from bot.isolation import exchange, room, seal
from bot.progress import Silent
from bot.records import Pinned
from bot.request import MergeRequest
from bot.settings import Settings, worker_environment
from bot.temporary import TemporaryFolder
from bot.weights.header import encode
from bot.weights.layout import Layout, Shard
from tests.e2e import wait_for

MARKED = "hf_MarkedTokenThatNobodyMaySee"
WALLS = [seal.WALLS, ("domain", "filter"), ("filter",), ()]


@pytest.fixture
def worker(request):
    """A worker behind the walls that the parameter names; all of them by default."""
    apart = room.Apart(verbosity=0, seconds=1.0, walls=getattr(request, "param", seal.WALLS))
    yield apart
    apart.close()


def probe(function, *given):
    return f"tests.probe:{function}", given, {}


# Tokens


@pytest.mark.parametrize("worker", WALLS, indirect=True, ids=str)
def test_a_token_is_nowhere_to_be_found(worker, monkeypatch, tmp_path):
    home = tmp_path / "home"
    stored = home / ".cache/huggingface/token"
    stored.parent.mkdir(parents=True)
    stored.write_text(MARKED)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "MERGE_BOT_READ_TOKEN"):
        monkeypatch.setenv(name, MARKED)
    monkeypatch.setenv("MERGE_BOT_WRITE_TOKEN", MARKED)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("HF_HOME", raising=False)
    with stored.open(), (tmp_path / "log").open("w") as log:
        os.set_inheritable(log.fileno(), True)
        seen = worker.do(*probe("everything_in_sight"))
    assert MARKED not in seen
    assert "PATH" in seen  # it did look
    assert "HF_HUB_OFFLINE" in seen


def test_a_process_that_runs_here_would_have_found_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", MARKED)
    assert MARKED in room.Here().do(*probe("everything_in_sight"))


@pytest.mark.parametrize("worker", WALLS, indirect=True, ids=str)
def test_the_command_that_holds_the_token_cannot_be_looked_into(worker):
    """/proc/PID/environ of the parent: the classic way round a clean environment."""
    found = worker.do(*probe("look_into", os.getpid()))
    assert found == ["PermissionError"] * 3


def test_a_stored_token_is_hidden_where_a_namespace_is_granted(worker, monkeypatch, tmp_path):
    stored = tmp_path / "huggingface" / "token"
    stored.parent.mkdir()
    stored.write_text(MARKED)
    monkeypatch.setenv("HF_HOME", str(stored.parent))
    if worker.isolation() != room.APART.format(seal.NAMESPACE):
        pytest.skip("this kernel grants no namespace")
    assert worker.do(*probe("read", str(stored))) == ""


def test_the_environment_is_an_allow_list(monkeypatch):
    for name in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "OPENAI_API_KEY",
        "SSH_AUTH_SOCK",
        "http_proxy",
        "XYZ",
        "NVIDIA_API_KEY",
        "OMP_TOKEN",
    ):
        monkeypatch.setenv(name, MARKED)
    made = worker_environment(home="/nowhere")
    assert MARKED not in made.values()
    assert made["HOME"] == "/nowhere"
    assert made["HF_HUB_OFFLINE"] == made["TRANSFORMERS_OFFLINE"] == made["HF_HUB_DISABLE_TELEMETRY"] == "1"


# Network and privileges


@pytest.mark.parametrize("worker", WALLS, indirect=True, ids=str)
def test_not_even_this_machine_can_be_reached(worker):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert worker.do(*probe("reach", port)).startswith(("PermissionError", "OSError"))
        socket.create_connection(("127.0.0.1", port)).close()  # it was there to be reached


@pytest.mark.parametrize("worker", WALLS[:3], indirect=True, ids=str)
def test_not_by_compiled_code_either(worker):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert worker.do(*probe("reach_by_libc", server.getsockname()[1])) != 0


@pytest.mark.parametrize(("local", "left"), [(False, []), (True, ["AF_UNIX"])])
@pytest.mark.parametrize("worker", [()], indirect=True, ids=str)
def test_beside_a_gpu_its_daemons_can_be_reached_and_nobody_else(worker, local, left):
    assert worker.do(*probe("families", local)) == left


@pytest.mark.parametrize("walls", [seal.WALLS, ("domain", "filter")])
def test_nor_can_the_shell_that_has_started_it(walls):
    """Its environment has the token too, and another process of a plain user could read it."""
    code = (
        f"import os; from bot.isolation import room; w = room.Apart(verbosity=0, seconds=9, walls={walls!r});"
        "print(w.do('tests.probe:look_into', (os.getppid(),), {}), w.isolation()); w.close()"
    )
    user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if subprocess.run([*user, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel grants no namespace")
    shell = [*user, "sh", "-c", '"$0" -c "$1"; true', sys.executable, code]
    said = subprocess.run(
        shell, check=True, capture_output=True, text=True, env={**os.environ, "HF_TOKEN": MARKED}
    )
    if seal.IN_SIGHT in said.stdout:
        pytest.skip("this kernel grants no namespace")
    assert said.stdout.startswith(str(["PermissionError"] * 3))


def test_a_user_who_is_not_root_gets_the_same_room():
    """In a user namespace root's files stay readable, and nothing of what root may do is left."""
    code = (
        "import os; from bot.isolation import room;"
        "w = room.Apart(verbosity=0, seconds=9); print(os.getuid(), w.isolation());"
        "print(w.do('tests.probe:look_into', (os.getpid(),), {}), w.do('os:getuid', (), {})); w.close()"
    )
    user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if subprocess.run([*user, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel grants no namespace")
    said = subprocess.run([*user, sys.executable, "-c", code], check=True, capture_output=True, text=True)
    first, second = said.stdout.splitlines()
    assert first.startswith("1000 a process of its own without tokens, network cut by a ")
    assert second == f"{['PermissionError'] * 3} 1000"


@pytest.mark.parametrize("worker", WALLS, indirect=True, ids=str)
def test_the_report_says_how_the_network_is_cut(worker):
    said = worker.isolation()
    assert said.startswith("a process of its own without tokens, network ")
    assert said.endswith((seal.NAMESPACE, seal.FILTER, seal.SWITCHES, seal.IN_SIGHT))
    if worker._walls == ():
        assert said.endswith(f"{seal.SWITCHES}; {seal.IN_SIGHT}")


def test_limits_and_privileges(worker):
    status = worker.do(*probe("read", "/proc/self/status"))
    assert "NoNewPrivs:\t1" in status
    kept = int(re.search(r"CapPrm:\t(\w+)", status)[1], 16)
    assert kept & ~seal.FILE_CAPABILITIES == 0
    limits = worker.do(*probe("read", "/proc/self/limits"))
    assert re.search(r"Max core file size +0 +0", limits)
    assert worker.do("os:getcwd", (), {}) != str(Path.cwd())
    assert worker.do("os:getsid", (0,), {}) == worker.pid


# Its end


def test_what_takes_too_long_is_killed_with_its_children(worker):
    pid = worker.do(*probe("child"))
    start = time.monotonic()
    with pytest.raises(room.TooLongError):
        worker.do("time:sleep", (60,), {}, timed=True)
    assert time.monotonic() - start < 10
    wait_for(lambda: gone(pid))
    assert worker.do("os:getcwd", (), {})  # the next job gets another process


def test_a_worker_that_dies_is_an_error_with_advice(worker):
    with pytest.raises(MergeError, match="SIGKILL, most likely because memory ran out") as error:
        worker.do(*probe("die"))
    assert error.value.code == "worker-died"


def test_memory_has_a_limit(worker):
    with pytest.raises(MergeError) as error:
        worker.do(*probe("fill"), memory=200 << 20)
    assert error.value.code == "out-of-memory"
    assert worker.do(*probe("fill_a_little")) > 0


def test_what_a_killed_command_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = (
        "import tempfile; tempfile.tempdir = %r; from bot.temporary import TemporaryFolder;"
        "kept = TemporaryFolder('worker'); print(kept.path, flush=True); input()"
    )
    left = []
    for _ in range(2):
        command = [sys.executable, "-c", code % str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        left.append((process, Path(process.stdout.readline().strip())))
    (dead, abandoned), (alive, used) = left
    dead.kill()
    dead.wait()
    for path in (abandoned, used):
        os.utime(path, (0, 0))
    (tmp_path / "merge-bot-worker-link").symlink_to(used)
    mine = TemporaryFolder("worker")
    assert not abandoned.exists()
    assert used.is_dir()
    assert TemporaryFolder("worker").path.is_dir()  # and mine, as young as it is, stays
    assert mine.path.is_dir()
    mine.close()
    assert not mine.path.exists()
    alive.communicate("\n")
    assert not used.exists()  # removed by its owner


def test_its_temporary_files_go_where_ours_go(worker, monkeypatch, tmp_path):
    """Also where it was forked by a process that has another folder for them."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert worker.do("tempfile:gettempdir", (), {}) == str(tmp_path)


def test_a_file_has_a_limit(worker, tmp_path):
    place = str(tmp_path / "file")
    with pytest.raises(OSError, match="File too large"):
        worker.do(*probe("write", place, 2001), largest_file=2000)
    assert worker.do(*probe("write", place, 2000), largest_file=2000) == 2000
    assert worker.do(*probe("write", place, 2001)) == 2001


def test_it_dies_with_its_parent_even_when_it_is_stopped():
    code = (
        "from bot.isolation import room; import os, time;"
        "w = room.Apart(verbosity=0, seconds=9); w.isolation(); print(w.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
        wait_for(lambda: gone(pid))


def gone(pid):
    stat = Path("/proc", str(pid), "stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# What goes over the pipe


def test_records_come_back_as_they_were(worker):
    header = encode([("a", "F32", (2, 3)), ("b", "BF16", (4,))], metadata={"format": "pt"})
    layout = Layout((Shard(file="model.safetensors", header=header),), "{}")
    pinned = Pinned(kind="folder", location="/x", commit="sha256:1")
    for value in (layout, pinned, {"~": 1}, {1: (2, [3])}, Path("/x"), b"\0\xff", 0.1, None, "\ud800é"):
        assert worker.do("copy:copy", (value,), {}) == value


def test_nothing_but_records_crosses():
    with pytest.raises(TypeError):
        exchange.dumps({"x": object()})
    with pytest.raises(KeyError):
        exchange.loads(b'{"~": "Popen", "v": {}}')


@pytest.mark.parametrize(
    "error",
    [
        RefusedError("No.", advice="Do.", code="no"),
        ValidationError(
            "No.", advice="Do.", code="no", report=Pinned(kind="hub", location="a/b", commit="1")
        ),
        OSError(28, "No space left on device", "/x"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_arrive_as_they_were_raised(error):
    said = exchange.loads(exchange.dumps(exchange.failure(error, trace="")))
    again = exchange.raised(said)
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_a_fault_comes_with_its_traceback(worker):
    with pytest.raises(InternalError, match="ZeroDivisionError") as error:
        worker.do("operator:truediv", (1, 0), {})
    assert "Traceback" in error.value.__notes__[0]


# Strangers' regular expressions

BOMB = r"(([a-z0-9._]+)+)+!"


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": BOMB},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": BOMB},
        {"target_modules": ["q_proj"], "rank_pattern": {BOMB: 4}},
        {"target_modules": ["q_proj"], "alpha_pattern": {BOMB: 4}},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": BOMB},
        {"target_modules": ["q_proj"], "modules_to_save": [BOMB]},
    ],
    ids=lambda change: list(change)[-1],
)
def test_a_regular_expression_that_never_ends_is_stopped(adapter_on, change):
    _, adapter = adapter_on("llama", {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4})
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    field = list(change)[-1]
    with pytest.raises(RefusedError) as error:
        pipeline.plan(
            MergeRequest(adapter=str(adapter)),
            settings=Settings(isolation="process", plan_timeout=2),
            progress=Silent(),
        )
    assert error.value.code == f"regex-timeout-{field}"
    assert field in error.value.sentence


def test_home_is_not_the_users(worker):
    home = worker.do(*probe("home"))
    assert home != pwd.getpwuid(os.getuid()).pw_dir
    assert worker.do("os:listdir", (home,), {}) == []
