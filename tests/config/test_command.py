"""`merge-bot config` as people run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bot import cli

HERE = Path(__file__).parents[2]


def merge_bot(*words, cwd, **environ):
    environment = {**os.environ, "PYTHONPATH": str(HERE), **environ}
    return subprocess.run(
        [sys.executable, "-m", "bot", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_is_written_checked_and_asked_about_a_repository(tmp_path):
    example = merge_bot("config", "example", cwd=tmp_path)
    (tmp_path / "merge-bot.toml").write_text(example.stdout)
    checked = merge_bot("config", "check", cwd=tmp_path)
    assert checked.returncode == 0
    assert checked.stdout.startswith("merge-bot.toml is right.\nNote: The Hub's webhooks are refused")
    (tmp_path / "own.yml").write_text("dtype: bfloat16\n")
    about = merge_bot("config", "check", "--for", "acme/x", "--own", "own.yml", cwd=tmp_path)
    facts = dict(line.strip().split("  ", 1) for line in about.stdout.splitlines() if line.startswith("  "))
    facts = {name: value.strip() for name, value in facts.items()}
    assert (facts["rule"], facts["visibility"], facts["dtype"]) == ("2 of [[watch]]", "public", "bfloat16")
    assert facts["an adapter on acme/base"] == "goes to acme/x-merged"


def test_all_mistakes_are_listed_with_their_places(tmp_path):
    (tmp_path / "bot.toml").write_text("[server]\nprt = 1\n\n[defaults]\nrunner = 'pool:gpu'\n")
    told = merge_bot("config", "check", "bot.toml", cwd=tmp_path, MERGE_BOT_PAGES__STRANGERS="all")
    assert told.returncode == 2
    assert told.stdout.splitlines()[:2] == [
        "MERGE_BOT_PAGES__STRANGERS: `pages.strangers` should be 'read-only' or 'closed'. It takes read-only, closed.",
        "bot.toml, line 2: There is no key `server.prt`. Did you mean `port`?",
    ]
    as_json = merge_bot("config", "check", "--json", "bot.toml", cwd=tmp_path)
    assert [(m["key"], m["line"]) for m in json.loads(as_json.stdout)["mistakes"]] == [("server.prt", 2)]


def test_what_cannot_be_read_or_named_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["config", "check"]) == 2
    (tmp_path / "merge-bot.toml").write_text("[[watch]]\nowners = ['acme']\n")
    (tmp_path / "own.yml").write_text("runner: local\n")
    assert cli.main(["config", "check", "--for", "acme/x", "--own", "own.yml"]) == 2
    assert "Line 1 of merge-bot.yml in acme/x is wrong" in capsys.readouterr().err
    assert cli.main(["config", "check", "--for", "acme"]) == 2
    assert cli.main(["config", "check", "--own", "own.yml"]) == 2  # of which repository?
