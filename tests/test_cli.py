"""The door: flags become a request, results and errors become text or one JSON document, and --help is quick."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot import __version__, cli, errors, pipeline, records, request, serial

HERE = Path(__file__).parents[1]
COMMANDS = [
    "doctor",
    "plan",
    "merge",
    "validate",
    "report",
    "publish",
    "run",
    "verify",
    "action",
    "config",
    "serve",
    "worker",
    "watch",
    "webhook",
    "enqueue",
    "jobs",
    "backup",
    "restore",
    "make",
]
ADAPTER = records.Pinned(kind="hub", location="ada/tiny-lora", commit="a" * 40, revision="main")
BASE = records.Pinned(kind="hub", location="ada/tiny", commit="b" * 40, gated=True)
PLAN = records.Plan(
    key="k" * 16,
    adapter=ADAPTER,
    base=BASE,
    base_found_by="base_model_name_or_path",
    peft_type="LORA",
    task_type="CAUSAL_LM",
    model_class="LlamaForCausalLM",
    adapter_config={"r": 8},
    adapter_file="adapter_model.safetensors",
    renamed={},
    way="layers",
    patches=(
        records.Patch(rule="inert", key="loftq_config", before={}, after=None, reason="it is not used here"),
        *(
            records.Patch(rule="megatron", key=key, before=None, after=None, reason="unused", inert=True)
            for key in ("megatron_config", "megatron_core")
        ),
    ),
    bindings=tuple(
        records.Binding(
            tensor=f"model.layers.{i}.q_proj.weight",
            source=f"model.layers.{i}.q_proj.weight",
            parameter=f"model.layers.{i}.q_proj.weight",
            method="lora",
            adapter=("A", "B"),
            shape=(8, 8),
            dtype="BF16",
        )
        for i in range(4)
    ),
    added=(records.AddedTensor(name="lm_head.weight", shape=(32, 8), dtype="BF16", reason="the tie is cut"),),
    config_edits=(
        records.ConfigEdit(key="tie_word_embeddings", before=True, after=False, reason="it is untied"),
    ),
    sidecars=(records.Sidecar(name="tokenizer.json", origin="adapter"),),
    shards=("model.safetensors",),
    dtype="auto",
    destination=records.Destination(kind="hub_pr", location="ada/tiny"),
    estimate=records.Estimate(
        download_bytes=10**6, output_bytes=10**6, disk_bytes=2 * 10**6, memory_bytes=10**8
    ),
    notes=("The adapter was trained with an old PEFT.",),
)
REPORT = records.Report(
    verdict="passed",
    level="tensors",
    plan_key=PLAN.key,
    adapter=ADAPTER,
    base=BASE,
    checks=(
        records.Check(name="finite", verdict="passed", figure="12 tensors", detail="no NaN"),
        records.Check(name="logits", verdict="skipped", figure="", detail="not asked for"),
    ),
    files={"model.safetensors": "0" * 64},
    versions={"peft": "0.21.2"},
    device="cpu",
    seconds=1.5,
)
MERGED = records.MergedModel(
    folder="/out", merged=4, copied=9, added=1, total_bytes=10**6, seconds=0.5, device="cpu"
)
PUBLICATION = records.Publication(
    destination=PLAN.destination, url="https://hub.example/ada/tiny/discussions/3", commit="c" * 40, number=3
)


@pytest.fixture
def seen(monkeypatch):
    """The pipeline answers at once, and remembers what it was asked."""
    asked = []

    def answers(result):
        def stage(*given, settings, progress):
            asked.append(given)
            progress.begin("work", total=10)
            progress.advance(10)
            progress.end()
            return result

        return stage

    monkeypatch.setattr(pipeline, "plan", answers(PLAN))
    monkeypatch.setattr(pipeline, "merge", answers((PLAN, MERGED, REPORT)))
    monkeypatch.setattr(pipeline, "validate", answers(REPORT))
    monkeypatch.setattr(pipeline, "publish", answers(PUBLICATION))
    monkeypatch.setattr(pipeline, "run", answers((PLAN, REPORT, PUBLICATION)))
    return asked


@pytest.fixture
def stops(monkeypatch):
    """The pipeline's plan raises what it is given."""

    def arrange(error):
        def stage(*_, **__):
            raise error

        monkeypatch.setattr(pipeline, "plan", stage)

    return arrange


def test_flags_become_the_request(seen):
    flags = "--base b --base-revision v1 --dtype float16 --device cpu --dry-run --validate structure --to a/b --pr"
    assert cli.main(["run", "o/n@r:s", *flags.split()]) == 0
    assert seen[-1][0] == request.MergeRequest(
        adapter="o/n@r:s",
        base="b",
        base_revision="v1",
        destination=records.Destination(kind="hub_pr", location="a/b"),
        dtype="float16",
        device="cpu",
        validation="structure",
        dry_run=True,
    )


@pytest.mark.parametrize(
    ("arguments", "way"),
    [
        ("run x --to a/b", "full"),
        ("merge x --out o", "tensors"),
        ("validate . --adapter x", "full"),
        ("run x --to a/b --no-validate", "none"),
        ("merge x --out o --validate none", "none"),
    ],
)
def test_how_much_is_checked_by_default(seen, arguments, way):
    assert cli.main(arguments.split()) == 0
    assert seen[-1][-1].validation == way


def test_questions_for_the_models_arrive_as_their_content_and_ask_for_the_full_check(seen, tmp_path):
    (prompts := tmp_path / "p.txt").write_text("One?\nTwo?\n")
    (text := tmp_path / "t.txt").write_text("A text.")
    for command in (
        ["merge", "x", "--out", "o"],
        ["run", "x", "--to", "a/b"],
        ["validate", ".", "--adapter", "x"],
    ):
        assert cli.main([*command, "--prompts", str(prompts), "--text", str(text)]) == 0
        asked = seen[-1][-1]
        assert asked.validation == "full"
        assert asked.prompts == (request.Prompt(text="One?"), request.Prompt(text="Two?"))
        assert asked.text == "A text."
        assert str(tmp_path) not in str(serial.as_dict(asked))


@pytest.mark.parametrize("less", [["--validate", "tensors"], ["--validate", "none"], ["--no-validate"]])
@pytest.mark.parametrize("flag", ["--prompts", "--text"])
@pytest.mark.usefixtures("seen")
def test_questions_without_the_full_check_are_wrong_usage(tmp_path, capsys, flag, less):
    (file := tmp_path / "t.txt").write_text("A text.")
    assert cli.main(["merge", "x", "--out", "o", flag, str(file), *less]) == 2
    assert f"Error: {flag} is for the full check" in capsys.readouterr().err
    assert cli.main(["merge", "x", "--out", "o", flag, str(file), "--validate", "full"]) == 0


def test_folders_arrive_absolute(seen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert cli.main(["merge", "x", "--out", "out"]) == 0
    assert cli.main(["run", "x", "--to=~/merged"]) == 0
    assert [given[0].destination.location for given in seen] == [str(tmp_path / "out"), "/home/ada/merged"]


def test_publish_takes_the_folder_and_asks_nothing_about_the_adapter(seen, tmp_path):
    assert cli.main(["publish", str(tmp_path), "--to", "a/b", "--public"]) == 0
    folder, request = seen[-1]
    assert folder == tmp_path
    assert request.destination == records.Destination(kind="repository", location="a/b", public=True)


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        ("plan x", serial.as_dict(PLAN)),
        ("merge x --out o", {"plan": PLAN, "merged": MERGED, "report": REPORT}),
        ("validate . --adapter x", serial.as_dict(REPORT)),
        ("publish . --to a/b", serial.as_dict(PUBLICATION)),
        ("run x --to a/b", {"plan": PLAN, "report": REPORT, "publication": PUBLICATION}),
    ],
)
@pytest.mark.usefixtures("seen")
def test_json_is_exactly_one_document(arguments, document, capfd):
    assert cli.main([*arguments.split(), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == json.loads(json.dumps(document, default=serial.as_dict))
    assert "work: done, 10 B" in err


def test_a_folder_that_holds_the_merge_already_is_not_merged_again(monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "merge", lambda *_, **__: (PLAN, None, REPORT))
    assert cli.main(["merge", "x", "--out", "o"]) == 0
    assert "The folder holds this merge already." in capsys.readouterr().out


def test_a_dry_run_has_no_result_to_show(monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: (PLAN, None, None))
    assert cli.main(["run", "x", "--to", "a/b", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["publication"] is None
    assert cli.main(["run", "x", "--to", "a/b", "--dry-run"]) == 0
    assert "Dry run: nothing was written." in capsys.readouterr().out


@pytest.mark.usefixtures("seen")
def test_the_plan_reads_as_a_table(capsys):
    assert cli.main(["plan", "x"]) == 0
    out = capsys.readouterr().out
    for words in (
        "ada/tiny-lora",
        f"commit {'a' * 40} (main)",
        "ada/tiny, gated",
        "named by base_model_name_or_path",
        "4 tensors by LoRA: model.layers.0.q_proj.weight, model.layers.1.q_proj.weight and 2 more",
        "lm_head.weight [32 × 8] BF16: the tie is cut",
        "loftq_config: {} removed: it is not used here",
        "tie_word_embeddings: true → false: it is untied",
        "LoRA, CAUSAL_LM",
        "precision as in the base (BF16)",
        "2 inert default keys removed: megatron_config, megatron_core",
        "1.0 MB to fetch",
        "a Hub PR on ada/tiny",
        "The adapter was trained with an old PEFT.",
    ):
        assert words in out


@pytest.mark.usefixtures("seen")
def test_a_run_ends_with_its_checks_and_where_the_result_is(capsys):
    assert cli.main(["run", "x", "--to", "ada/tiny", "--pr"]) == 0
    out = capsys.readouterr().out
    for words in ("✓   finite ", "–   logits ", "Validation passed (tensors)", "Hub PR #3", PUBLICATION.url):
        assert words in out


@pytest.mark.parametrize(
    ("kind", "code"),
    [(errors.InputError, 2), (errors.RefusedError, 3), (errors.HostError, 4), (errors.AccessError, 5)],
)
def test_an_error_is_one_sentence_and_one_advice(stops, capsys, kind, code):
    stops(kind("It has\nno base.", advice="Name one with --base.", code="no-base"))
    assert cli.main(["plan", "x"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "Error: It has no base. [no-base]\nAdvice: Name one with --base.\n"


def test_an_error_is_one_document_with_json(stops, capsys):
    stops(errors.RefusedError("No.", advice="Do not.", code="no"))
    assert cli.main(["plan", "x", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {"code": "no", "sentence": "No.", "advice": "Do not.", "exit_code": 3}
    }
    assert err == ""


def test_a_failed_validation_shows_its_proof(stops, capsys):
    stops(errors.ValidationError("A check failed.", advice="Look at it.", code="failed", report=REPORT))
    assert cli.main(["plan", "x"]) == 7
    assert "finite" in capsys.readouterr().err
    assert cli.main(["plan", "x", "--json"]) == 7
    assert json.loads(capsys.readouterr().out)["report"]["checks"][0]["name"] == "finite"


@pytest.mark.parametrize(
    ("flags", "traced"), [([], False), (["-v"], False), (["-vv"], True), (["-v", "--verbose"], True)]
)
def test_our_own_fault_is_70_and_traced_only_on_request(stops, capsys, flags, traced):
    stops(KeyError("shard"))
    assert cli.main(["plan", "x", *flags]) == 70
    err = capsys.readouterr().err
    assert "Error: merge-bot met a fault of its own (KeyError: 'shard'). [internal]" in err
    assert ("Traceback" in err) is traced


def test_an_interruption_is_130(stops, capsys):
    stops(KeyboardInterrupt())
    assert cli.main(["plan", "x"]) == 130
    assert capsys.readouterr().err.strip() == "Interrupted; nothing was left half-written."


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan"],
        ["frobnicate"],
        ["plan", "x", "--dtype", "int3"],
        ["run", "x"],
        ["validate", "no-such-folder", "--adapter", "x"],
        ["plan", "x", "--to", "three/part/name"],
        ["run", "x", "--to", "./here", "--pr"],
        ["plan", "x", "--pr"],
        ["run", "x", "--to", "~nobody-of-that-name/x"],
        ["merge", "x", "--out", "o", "--text", "no-such-file"],
        ["merge", "x", "--out", "o", "--prompts", "."],
    ],
)
def test_wrong_usage_is_2_in_both_forms(arguments, capsys):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert "Advice: " in err
    assert cli.main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["exit_code"] == 2
    assert err == ""


def test_a_setting_that_makes_no_sense_is_wrong_usage(monkeypatch, capsys):
    monkeypatch.setenv("MERGE_BOT_TIMEOUT", "soon")
    assert cli.main(["plan", "x"]) == 2
    assert "MERGE_BOT_TIMEOUT must be a positive number, not 'soon'." in capsys.readouterr().err


CHATTER = """
import logging, os, sys, warnings
from bot import cli, pipeline
from tests.test_cli import PLAN
def plan(*_, **__):
    from tqdm import tqdm
    print("printed by a library")
    os.write(1, b"written by compiled code\\n")
    warnings.warn("deprecated")
    logging.getLogger("transformers").warning("logged")
    list(tqdm(range(3), file=sys.stdout))
    return PLAN
pipeline.plan = plan
sys.exit(cli.main(["plan", "x", "--json", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(("flags", "warned"), [([], False), (["-v"], True)])
def test_libraries_never_reach_stdout(flags, warned):
    done = _python(CHATTER, *flags)
    assert json.loads(done.stdout)["key"] == PLAN.key
    assert "printed by a library" in done.stderr
    assert "written by compiled code" in done.stderr
    assert "3/3" not in done.stderr
    assert ("deprecated" in done.stderr) is warned
    assert ("logged" in done.stderr) is warned


def test_without_a_command_the_help_is_shown():
    result = CliRunner().invoke(cli.cli, ["--help"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.split("Commands:\n")[1].splitlines()] == COMMANDS
    assert cli.main([]) == 0


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"merge-bot, version {__version__}\n"


SLOW = (
    *("torch", "matplotlib", "transformers", "peft", "huggingface_hub", "rich", "numpy", "yaml", "httpx2"),
    *("dbos", "fastapi", "pydantic", "sqlalchemy"),
)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_imports_nothing_slow(command):
    code = (
        "import sys; from bot.cli import main; main(sys.argv[1:]);"
        f"print([name for name in {SLOW!r} if name in sys.modules], file=sys.stderr)"
    )
    done = _python(code, *command, "--help")
    assert done.stderr == "[]\n"
    assert done.stdout.startswith("Usage: merge-bot")


HANGS = """
import sys, time
from bot import cli, pipeline
def plan(*_, progress, **__):
    progress.begin("hanging", total=0)
    time.sleep(60)
pipeline.plan = plan
sys.exit(cli.main(["plan", "x"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_polite_kill_end_the_same_way(number):
    with subprocess.Popen(
        [sys.executable, "-c", HANGS], stderr=subprocess.PIPE, text=True, cwd=HERE
    ) as process:
        assert process.stderr.readline() == "hanging: started\n"
        process.send_signal(number)
        err = process.stderr.read()
    assert process.returncode == 130
    assert err.strip() == "Interrupted; nothing was left half-written."


LEFT = """
import sys
from bot import cli, pipeline
from tests.test_cli import PLAN
pipeline.plan = lambda *_, **__: PLAN
sys.exit(cli.main(["plan", "x", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_reader_who_leaves_is_no_error(flags):
    arguments = [sys.executable, "-c", LEFT, *flags]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=HERE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_answer_that_cannot_be_written_is_said(flags):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LEFT, *flags],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
        )
    assert done.returncode == 6
    assert done.stderr.startswith("Error: The answer cannot be written to stdout: no space left on device.")
    assert len(done.stderr.splitlines()) == 2


def test_an_error_for_which_stdout_is_full_is_told_on_stderr():
    with Path("/dev/full").open("w") as full:
        arguments = [sys.executable, "-m", "bot", "plan", "--json"]
        done = subprocess.run(
            arguments, check=False, stdout=full, stderr=subprocess.PIPE, text=True, cwd=HERE
        )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2)
    assert "[usage]" in done.stderr


@pytest.mark.parametrize(
    ("closed", "left"), [(">&-", 0), ("2>&-", 1), ("<&- >&- 2>&-", 0), ("--json >&-", 0)]
)
def test_what_a_shell_has_closed_is_no_error(closed, left):
    arguments = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, LEFT]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd=HERE)
    assert (done.returncode, done.stderr, bool(done.stdout)) == (0, "", bool(left))


STREAMS = "import os, sys; print([os.readlink(f'/proc/self/fd/{n}') for n in range(3)], file=open(sys.argv[1], 'w'))"
STARTS = f"""
import subprocess, sys
from bot import cli, pipeline
from tests.test_cli import PLAN
pipeline.plan = lambda *_, **__: subprocess.run([sys.executable, "-c", {STREAMS!r}, sys.argv[1]]) and PLAN
sys.exit(cli.main(["plan", "x"]))
"""


def test_what_a_shell_has_closed_leads_nowhere_in_processes_of_ours_either(tmp_path):
    found = tmp_path / "found"
    closed = '"$0" -c "$1" "$2" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", closed, sys.executable, STARTS, found], check=True, cwd=HERE)
    assert found.read_text() == f"{[os.devnull] * 3}\n"


def test_python_m_bot_is_the_same_door():
    done = subprocess.run(
        [sys.executable, "-m", "bot", "--version"], capture_output=True, text=True, check=True, cwd=HERE
    )
    assert done.stdout == f"merge-bot, version {__version__}\n"


def _python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=HERE
    )
