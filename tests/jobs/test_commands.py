"""The service's jobs on the command line, by a real process, on both databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from bot import cli
from bot.job import Now
from tests.conftest import MARKED
from tests.jobs.orders import PUBLISHED, REFUSED, order

HERE = Path(__file__).parents[2]


@pytest.fixture
def call(url, tmp_path, monkeypatch, capfd):
    """Runs merge-bot with that database: the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words, database=url):
        monkeypatch.setenv("MERGE_BOT_DATABASE_URL", database)
        capfd.readouterr()
        return (cli.main(words), *capfd.readouterr())

    return run


def test_an_adapter_is_queued_once_and_shown(call, ledger):
    words = [
        "enqueue",
        "ada/lora",
        "--to",
        "ada/merged",
        "--pr",
        "--validate",
        "tensors",
        "--runner",
        "pool:gpu",
        "--json",
    ]
    code, out, _ = call(*words)
    first = json.loads(out)
    assert code == 0
    assert json.loads(call(*words)[1]) == first
    (entry,) = ledger.entries()
    asked = entry.order.request
    assert (entry.state, entry.order.origin.host, entry.order.runner) == ("queued", "cli", "pool:gpu")
    assert (asked.adapter, asked.destination.kind, asked.validation) == ("ada/lora", "hub_pr", "tensors")
    assert (asked.attended, asked.requester_access) == (False, "yes")
    key = entry.order.job.key
    assert call("jobs", "list")[1].splitlines()[2].split()[:4] == [
        key[:12],
        "queued",
        "ada/lora",
        "ada/merged",
    ]
    code, out, _ = call("jobs", "show", key[:8])
    assert code == 0
    assert f"Job      {key}" in out
    assert "Runner   pool:gpu" in out


def test_what_a_service_cannot_know_is_given_in_full(call, ledger, tmp_path):
    (tmp_path / "lora").mkdir()
    assert call("enqueue", "./lora", "--to", "./out")[0] == 0
    asked = ledger.entries()[0].order.request
    assert asked.adapter == str(tmp_path / "lora")
    assert asked.destination.location == str(tmp_path / "out")


def test_jobs_are_listed_shown_called_off_and_begun_anew(call, ledger):
    done, going = (ledger.enqueue(order(f"ada/lora-{n}")).order.job.key for n in range(2))
    ledger.begin(done, 1, worker="a-0")
    ledger.end(done, 1, REFUSED)
    ledger.begin(going, 1, worker="a-0")
    ledger.tell(going, 1, Now(stage="merging", done=2, total=5))
    listed = call("jobs", "list")[1]
    assert "running: merging, 40 %" in listed
    assert listed.rstrip().endswith("2 jobs: 1 running, 1 refused")
    found = json.loads(call("jobs", "list", "--state", "refused", "--text", "LORA", "--json")[1])
    assert [job["order"]["job"]["key"] for job in found["jobs"]] == [done]
    assert found["counts"]["running"] == 1
    assert "It names no base. Name it. (no-base)" in call("jobs", "show", done)[1]
    assert json.loads(call("jobs", "cancel", going, "--json")[1])["state"] == "cancelling"
    assert json.loads(call("jobs", "retry", done, "--json")[1])["attempt"] == 2
    assert json.loads(call("jobs", "retry", done, "--json")[1])["attempt"] == 2
    assert ledger.lines(done)[-1].text == "Begun anew by the command line."


def test_a_log_is_followed_until_its_job_has_ended(call, ledger, url, tmp_path):
    key = ledger.enqueue(order()).order.job.key
    ledger.begin(key, 1, worker="a-0")
    ledger.write(key, ["one", f"token {MARKED}", "\x1b[31mred"])

    def work():
        time.sleep(2)
        ledger.write(key, [f"line {n}" for n in range(1500)])
        ledger.write(key, ["the last"])
        ledger.end(key, 1, PUBLISHED)

    worker = threading.Thread(target=work)
    worker.start()
    command = [sys.executable, "-m", "bot", "jobs", "logs", "--follow", key[:10]]
    environment = os.environ | {"PYTHONPATH": str(HERE), "MERGE_BOT_DATABASE_URL": url}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True)
    worker.join()
    lines = [line[21:] for line in done.stdout.splitlines()]
    assert lines == [
        "one",
        "token [hidden]",
        "\N{REPLACEMENT CHARACTER}[31mred",
        *(f"line {n}" for n in range(1500)),
        "the last",
    ]
    assert len(json.loads(call("jobs", "logs", key, "--json")[1])["lines"]) == 1504
    assert call("jobs", "logs", key, "--json", "--follow")[0] == 2


def test_what_is_not_there_is_said_in_a_sentence(call, ledger, tmp_path):
    given = order()
    for digits in ("0", "f"):
        twin = given.job.key[:10] + digits * 22
        ledger.enqueue(order().__class__(**(vars(given) | {"job": given.job.__class__(key=twin, what="x")})))
    for words, code in (
        (["jobs", "show", "01234567"], "no-such-job"),
        (["jobs", "cancel", "01234567"], "no-such-job"),
        (["jobs", "logs", "01234567"], "no-such-job"),
        (["jobs", "retry", given.job.key[:10]], "ambiguous-id"),
    ):
        status, out, err = call(*words)
        assert (status, out) == (2, "")
        assert f"[{code}]" in err
    status, out, _ = call("jobs", "list", "--json", database=f"sqlite:///{tmp_path}/nothing.db")
    assert (status, json.loads(out)["error"]["code"]) == (2, "no-database")
    status, _, err = call("jobs", "list", database="mysql://ada:geheim@h/d")
    assert status == 2
    assert "geheim" not in err
    status, _, err = call("enqueue", "ada/lora", "--to", "ada/merged", "--runner", "moon")
    assert status == 2
    assert "moon" in err


def test_the_database_of_a_configuration_is_used(call, ledger, url, tmp_path):
    ledger.enqueue(order())
    (tmp_path / "merge-bot.toml").write_text(f'database_url = "{url}"\n')
    assert "1 queued" in call("jobs", "list", database="")[1]
    (tmp_path / "merge-bot.toml").rename(tmp_path / "other.toml")
    assert "1 queued" in call("jobs", "list", "--config", "other.toml", database="")[1]


def test_the_state_goes_into_a_file_and_comes_back(call, ledger, tmp_path):
    key = ledger.enqueue(order()).order.job.key
    code, out, _ = call("backup", "state.backup", "--json")
    assert code == 0
    assert json.loads(out)["bytes"] == (tmp_path / "state.backup").stat().st_size
    ledger.end(key, 1, REFUSED)
    status, _, err = call("restore", "state.backup")
    assert (status, "[database-not-empty]" in err) == (3, True)
    status, out, _ = call("restore", "state.backup", "--force")
    assert (status, "is as it was in state.backup." in out) == (0, True)
    assert ledger.entry(key).state == "queued"


def test_help_is_there_without_what_speaks_to_databases():
    code = (
        "import sys\nfrom bot import cli\ncli.main(['jobs', 'list', '--help'])\n"
        "sys.exit(any(name in sys.modules for name in ('sqlalchemy', 'pydantic', 'torch', 'psycopg')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE, stdout=subprocess.DEVNULL)


def test_a_job_of_a_newer_version_is_listed_with_a_sentence(call, ledger, database):
    bad, good = (ledger.enqueue(order(f"ada/{name}")).order.job.key for name in ("bad", "good"))
    spoil = text("UPDATE merge_bot_orders SET document = '{}' WHERE job = :id")
    database.write(lambda connection: connection.execute(spoil, {"id": bad}))
    code, out, _ = call("jobs", "list")
    assert (code, bad[:12] in out, good[:12] in out) == (0, True, True)
    code, out, _ = call("jobs", "show", bad)
    assert (code, "cannot be read by this version" in out) == (0, True)
    assert call("jobs", "list", "--json")[0] == 0


def test_on_a_new_machine_a_state_is_restored_and_a_job_queued(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERGE_BOT_DATABASE_URL", raising=False)
    assert cli.main(["enqueue", "ada/lora", "--to", "ada/merged"]) == 0
    assert cli.main(["backup", "state.backup"]) == 0
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    assert cli.main(["restore", "../state.backup"]) == 0
    capfd.readouterr()
    assert cli.main(["jobs", "list", "--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["jobs"]) == 1
