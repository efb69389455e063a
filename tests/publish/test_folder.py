"""The folder destination: what may be replaced, and that nothing half-written ever has the final name."""

import errno
import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bot.errors import MergeError, RefusedError
from bot.publish.folder import check, staging, sweep
from bot.publish.lock import locked
from tests.publish.samples import KEY, a_plan, a_result

OTHER = a_plan(key="0ther" + "0" * 11)
ROOT = Path(__file__).parents[2]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def publish(destination: Path, plan=None, *, content: bytes = b"weights") -> Path:
    plan = plan or a_plan()
    with staging(destination, key=plan.key) as staged:
        a_result(staged.folder, plan, content=content)
        return staged.finish()


def test_absent_and_empty_are_free(tmp_path):
    assert check(tmp_path / "out", key=KEY) == "free"
    (tmp_path / "out").mkdir()
    assert check(tmp_path / "out", key=KEY) == "free"


def test_our_result_is_known_again(tmp_path):
    out = publish(tmp_path / "out")
    assert check(out, key=KEY) == "finished"
    assert check(out, key="another") == "replaceable"


@pytest.mark.parametrize(
    "plan_text",
    ["", "{", "[]", "null", '{"schema": 1}', '{"key": 3}', "[" * 100_000, '{"shards": [1]}', "\udcff"],
)
def test_a_plan_that_is_none_is_foreign(tmp_path, plan_text):
    (tmp_path / "merge_plan.json").write_text(plan_text, errors="surrogateescape")
    with pytest.raises(RefusedError) as stop:
        check(tmp_path, key=KEY)
    assert stop.value.code == "destination-exists"


def test_a_result_without_its_weights_or_with_foreign_files_is_not_replaced(tmp_path):
    out = publish(tmp_path / "out")
    (out / ".DS_Store").touch()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(RefusedError, match=r"holds thesis\.tex"):
        check(out, key=KEY)
    (out / "thesis.tex").unlink()
    (out / "model.safetensors").unlink()
    with pytest.raises(RefusedError):
        check(out, key=KEY)


def test_a_result_of_a_newer_schema_is_not_replaced(tmp_path):
    out = publish(tmp_path / "out")
    data = json.loads((out / "merge_plan.json").read_text())
    (out / "merge_plan.json").write_text(json.dumps({**data, "schema": 99}))
    with pytest.raises(RefusedError):
        check(out, key=KEY)


def test_a_file_a_link_and_a_mount_point(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RefusedError):
        check(tmp_path / "file", key=KEY)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "out")
    assert publish(tmp_path / "link") == (tmp_path / "far" / "out").resolve()
    assert check(tmp_path / "link", key=KEY) == "finished"
    with pytest.raises(RefusedError) as stop:
        check(Path("/proc"), key=KEY)
    assert stop.value.code == "destination-mounted"


def test_the_result_appears_only_when_finished(tmp_path):
    out = tmp_path / "out"
    with staging(out, key=KEY) as staged:
        assert staged.folder == tmp_path / f".out.{KEY[:8]}.partial"
        a_result(staged.folder, a_plan())
        assert not out.exists()
        staged.finish()
        assert (out / "model.safetensors").read_bytes() == b"weights"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(tmp_path, error):
    def fail() -> None:
        with staging(tmp_path / "out", key=KEY) as staged:
            a_result(staged.folder, a_plan())
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_without_finish_nothing_stays(tmp_path):
    with staging(tmp_path / "out", key=KEY) as staged:
        (staged.folder / "sub").mkdir()
    assert list(tmp_path.iterdir()) == []


def test_an_older_result_is_replaced(tmp_path):
    publish(tmp_path / "out", OTHER, content=b"old")
    out = publish(tmp_path / "out", content=b"new")
    assert (out / "model.safetensors").read_bytes() == b"new"
    assert hidden(tmp_path) == []


def test_what_appeared_meanwhile_is_not_replaced(tmp_path):
    def run() -> None:
        with staging(tmp_path / "out", key=KEY) as staged:
            a_result(staged.folder, a_plan())
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()
            staged.finish()

    with pytest.raises(RefusedError):
        run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


def test_a_rename_that_fails_puts_the_old_result_back(tmp_path, monkeypatch):
    out = publish(tmp_path / "out", OTHER, content=b"old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "I/O error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(MergeError) as stop:
        publish(out)
    assert stop.value.code == "destination-unwritable"
    assert (out / "model.safetensors").read_bytes() == b"old"


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    out = publish(tmp_path / "out", OTHER, content=b"old")
    out.rename(tmp_path / ".out.12345678.old")
    with staging(out, key=KEY):
        assert (out / "model.safetensors").read_bytes() == b"old"
    assert hidden(tmp_path) == []


def test_siblings_of_similar_names_are_left_alone(tmp_path):
    names = [
        ".out.backup.partial2",
        ".out.123456789.partial",
        ".output.12345678.partial",
        ".out.partial",
        ".out[x].old",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    publish(tmp_path / "out")
    assert hidden(tmp_path) == sorted(names)


HOLD = """
import sys, time
from pathlib import Path
from bot.publish.folder import staging
with staging(Path(sys.argv[1]), key=sys.argv[2]) as staged:
    (staged.folder / "half").write_bytes(b"x" * 1000)
    print("ready", flush=True)
    time.sleep(60)
"""


def holder(destination: Path, key: str) -> subprocess.Popen:
    run = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(destination), key], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    return run


def test_kill_9_then_a_rerun(tmp_path):
    run = holder(tmp_path / "out", "f" * 16)
    with pytest.raises(MergeError) as stop:
        publish(tmp_path / "out")
    assert stop.value.code == "destination-busy"
    assert hidden(tmp_path) == [".out.ffffffff.partial", ".out.lock"]
    publish(tmp_path / "elsewhere")  # another destination is free
    run.kill()
    run.communicate()
    assert not (tmp_path / "out").exists()
    publish(tmp_path / "out")
    assert hidden(tmp_path) == []


def test_ctrl_c_leaves_nothing(tmp_path):
    run = holder(tmp_path / "out", KEY)
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        with (
            pytest.raises(MergeError) as stop,
            staging(disk / "out", key=KEY, needed=5_000_000_000) as staged,
        ):
            (staged.folder / "model.safetensors").write_bytes(b"x" * 2_000_000)
        assert stop.value.code == "disk-full"
        assert str(disk) in stop.value.sentence
        assert "5.0 GB" in stop.value.advice
        assert hidden(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_system_that_takes_no_large_files(tmp_path):
    def write() -> None:
        with staging(tmp_path / "out", key=KEY) as staged:
            (staged.folder / "model.safetensors").write_bytes(b"x" * 200_000)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(MergeError) as stop:
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert stop.value.code == "file-too-large"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_the_words_of_safetensors(tmp_path):
    from safetensors import SafetensorError

    with pytest.raises(MergeError) as stop, staging(tmp_path / "out", key=KEY):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert stop.value.code == "disk-full"


def test_errors_about_other_files_pass_through(tmp_path):
    denied = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/base/model.safetensors")
    with pytest.raises(PermissionError), staging(tmp_path / "out", key=KEY):
        raise denied
    with pytest.raises(MergeError) as stop, staging(tmp_path / "out", key=KEY) as staged:
        raise PermissionError(errno.EACCES, "Permission denied", str(staged.folder / "model.safetensors"))
    assert stop.value.code == "destination-denied"


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MergeError), staging(tmp_path / "file" / "out", key=KEY):
        pytest.fail("there is nowhere to write")


@pytest.mark.parametrize(
    ("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)]
)
def test_modes_follow_the_umask(tmp_path, umask, file_mode, folder_mode):
    before = os.umask(umask)
    try:
        with staging(tmp_path / "out", key=KEY) as staged:
            a_result(staged.folder, a_plan())
            (staged.folder / "config.json").chmod(0o600)  # as tempfile makes them
            out = staged.finish()
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == folder_mode
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {file_mode}


def test_waiting_runs_never_share_a_destination(tmp_path):
    """Runs that start as others end: the lock's file vanishes under them, and still one at a time holds it."""
    code = HOLD.replace("time.sleep(60)", "time.sleep(0.05)")
    start = time.monotonic()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "out"), str(i) * 16],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for i in range(6)
    ]
    for run in runs:
        errors = run.communicate()[1]
        assert run.returncode == 0 or "Another run is writing" in errors
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - start < 20


def test_a_lock_whose_file_has_just_been_removed_is_taken_anew(tmp_path, monkeypatch):
    """The run before unlinks the file between our opening and our locking of it: that lock would exclude nobody."""
    real, path = fcntl.flock, tmp_path / ".out.lock"
    calls = []

    def late(handle, kind):
        calls.append(kind)
        if len(calls) == 1:
            path.unlink()
        real(handle, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    with staging(tmp_path / "out", key=KEY):
        assert len(calls) == 2
        assert path.exists()


def test_what_killed_runs_left_is_swept_and_what_a_live_run_holds_is_not(tmp_path: Path) -> None:
    for name in (".dead.abcd1234.partial", ".live.abcd1234.partial", ".other"):
        (tmp_path / name).mkdir()
    with locked(tmp_path / "live"):
        sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".live.abcd1234.partial", ".other"]
