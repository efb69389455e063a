"""The benchmark itself: that it measures what it says, and cleans up."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import figures, measure, places, report, run, verify
from benchmarks.shapes import ADAPTERS, SHAPES
from benchmarks.subjects import SUBJECTS

HERE = Path(__file__).parents[1]
MIB = 2**20


def _python(code):
    return [sys.executable, "-c", code]


def _sample(wall, *, anonymous=0):
    return measure.Sample(wall=wall, user=0, system=0, anonymous=anonymous, resident=0, looks=1)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The smallest run there is, with our merge."""
    folder = tmp_path_factory.mktemp("bench")
    asked = ["--quick", "--dir", str(folder / "cache"), "--results", str(folder / "results")]
    code = run.main([*asked, "--only", "cp", "cp-fsync", "peft", "merge"])
    return code, folder


@pytest.mark.slow
def test_quick_measures_and_verifies_everything(quick):
    code, folder = quick
    found = json.loads((folder / "results/quick-all-linear.json").read_text("utf-8"))
    assert code == 0
    assert list(found["subjects"]) == ["cp", "cp-fsync", "peft", "merge"]
    ours, peft, copy = (found["subjects"][n] for n in ("merge", "peft", "cp"))
    assert ours["verified"]["right"]
    assert ours["verified"]["changed"] == 14
    assert ours["verified"]["effect"] > 0.01
    assert peft["verified"]["right"]
    assert copy["anonymous"]["median"] < 20 * MIB < ours["anonymous"]["median"]
    assert ours["anonymous"]["median"] < 100 * MIB < peft["anonymous"]["median"]
    assert ours["ratios"]["peft"]["median"] == pytest.approx(ours["wall"]["median"] / peft["wall"]["median"])
    assert ours["cpu"]["median"] > 0


@pytest.mark.slow
def test_quick_leaves_its_inputs_and_no_output(quick):
    _, folder = quick
    assert sorted(p.name for p in (folder / "cache").iterdir()) == [
        "adapter-quick-all-linear-v1",
        "base-quick-v1",
    ]


@pytest.mark.slow
def test_a_wrong_merge_is_seen(quick):
    cache = quick[1] / "cache"
    base = places.base_folder(cache, SHAPES["quick"])
    adapter = places.adapter_folder(cache, SHAPES["quick"], ADAPTERS["all-linear"])
    verdict = verify.verify(base, adapter, base)
    assert not verdict.right
    assert verdict.beyond > verdict.elements / 2


def test_the_memory_of_children_is_counted(tmp_path):
    child = f"import time; x = bytearray({64 * MIB}); time.sleep(0.4)"
    parent = f"import subprocess, sys; x = bytearray({32 * MIB}); subprocess.run([sys.executable, '-c', {child!r}])"
    sample = measure.measure(_python(parent), log=tmp_path / "log")
    assert 96 * MIB < sample.anonymous < 140 * MIB
    assert sample.resident > sample.anonymous


def test_time_and_cpu_time_are_those_of_the_command(tmp_path):
    sleeping = measure.measure(["sleep", "0.3"], log=tmp_path / "log")
    assert 0.3 <= sleeping.wall < 3
    assert sleeping.user + sleeping.system < 0.1
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    counted = measure.measure(_python(nested), log=tmp_path / "log")
    assert counted.user + counted.system >= 0.3


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(measure.FailedError, match=r"(?s)ended with 3.*no such luck"):
        measure.measure(_python("print('no such luck'); raise SystemExit(3)"), log=tmp_path / "log")


def test_ctrl_c_ends_the_children_and_removes_outputs(tmp_path):
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = (
        "from pathlib import Path; from benchmarks import measure, places\n"
        f"with places.outputs(Path({str(tmp_path)!r})) as work:\n"
        f"    measure.measure([{sys.executable!r}, '-c', {child!r}], log=Path({str(tmp_path / 'log')!r}))\n"
    )
    process = subprocess.Popen(_python(code), cwd=HERE, stderr=subprocess.DEVNULL)
    log = tmp_path / "log"
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    pid = int(log.read_text())
    process.send_signal(signal.SIGINT)
    process.wait(30)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_outputs_of_a_killed_run_are_removed(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f"run-{gone.pid}").mkdir()
    (tmp_path / f"run-{os.getppid()}").mkdir()
    with places.outputs(tmp_path) as work:
        assert {p.name for p in tmp_path.iterdir()} == {work.name, f"run-{os.getppid()}"}


def test_a_full_disk_is_seen_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 4e9}))
    shape, adapter = SHAPES["1b"], ADAPTERS["all-linear"]
    assert "needs 5.2 GB" in places.lacking(tmp_path, shape, adapter)
    places.base_folder(tmp_path, shape).mkdir()
    assert places.lacking(tmp_path, shape, adapter) is None


def test_the_shapes_are_those_of_llama_3_2():
    assert SHAPES["1b"].bytes() == 2 * 1_235_814_400
    assert SHAPES["3b"].bytes() == 2 * 3_212_749_824
    assert list(SHAPES["1b"].shards()) == ["model.safetensors"]
    assert list(SHAPES["3b"].shards()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_ratios_are_taken_within_a_round():
    runs = {"merge": [_sample(2), _sample(20), _sample(3)], "peft": [_sample(4), _sample(40), _sample(3)]}
    found = figures.ratio(runs, "merge", "peft")
    assert (found.median, found.low, found.high) == (0.5, 0.5, 1.0)
    assert figures.ratio(runs, "merge", "cp-fsync") is None


def test_each_round_starts_with_another():
    names = list(SUBJECTS)
    turns = [run._turn(names, number) for number in range(len(names))]
    assert [t[0] for t in turns] == names
    assert all(sorted(t) == sorted(names) for t in turns)


def test_a_missed_requirement_is_said():
    case = report.Case(
        shape=SHAPES["1b"],
        adapter=ADAPTERS["dora"],
        runs={"merge": [_sample(2, anonymous=2 * 10**9)], "peft": [_sample(4)]},
    )
    assert report.verdicts(case) == [
        ("0.50 × the time of peft, at most 0.2 ×", False),
        ("anonymous memory 2.00 GB, at most 0.5 GB", False),
    ]
