"""The rules of the house that no linter knows."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bot import cli, errors, settings
from bot.terminal import failure

HERE = Path(__file__).parents[1]
BOT = HERE / "bot"
MODULES = sorted(BOT.rglob("*.py"))
README = (HERE / "README.md").read_text(encoding="utf-8")
LONGEST = 300
BLURRED = {"util", "utils", "common", "helper", "helpers", "manager", "managers"}


def _kinds():
    return errors.MergeBotError.__subclasses__()


def test_every_kind_of_error_has_its_own_exit_code():
    codes = [kind.exit_code for kind in _kinds()] + [failure.INTERRUPTED]
    assert len(set(codes)) == len(codes)
    assert not {0, 1} & set(codes)


def test_the_readme_explains_every_exit_code():
    table = README.split("### Exit codes")[1].split("##")[0]
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert explained == {0, failure.INTERRUPTED, *(kind.exit_code for kind in _kinds())}


def test_the_readme_lists_the_commands_of_the_cli():
    table = README.split("## Commands")[1].split("###")[0]
    assert re.findall(r"^\| `merge-bot (\w+)", table, re.MULTILINE) == list(cli.cli.commands)


def _leaves(group=cli.cli, start=""):
    """Every command by the words that call it: `plan`, `config check`."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _leaves(command, f"{start}{name} ")
        else:
            yield f"{start}{name}", command


def test_the_readme_lists_each_flag_with_its_commands():
    table = README.split("### Flags")[1].split("###")[0]
    explained = {}
    for flags, commands in re.findall(r"^\| (`-.*?) \| (.*?) \|", table, re.MULTILINE):
        names = [name for name, _ in _leaves()] if commands == "all" else commands.split(", ")
        explained |= {flag: set(names) for flag in re.findall(r"`(--?[a-z-]+)", flags)}
    real = {}
    for name, command in _leaves():
        for option in command.get_params(click.Context(command, **cli.cli.context_settings)):
            if isinstance(option, click.Option):
                for flag in option.opts:
                    real.setdefault(flag, set()).add(name)
    assert explained == real


def test_the_readme_lists_every_variable_that_settings_read():
    asked = set()

    class Watched(dict):
        def get(self, name, default=None):
            asked.add(name)
            return default

    settings.load(Watched())
    table = README.split("## Settings")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([A-Z_]+)`", table, re.MULTILINE)) == asked


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(BOT)))
def test_every_module_keeps_the_house(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST
    assert not BLURRED & {path.stem, *path.relative_to(BOT).parent.parts}
    if path != BOT / "settings.py":
        assert not re.search(r"\bos\.(environ|getenv|putenv)|from os import .*(environ|getenv)", text)
    if path.name == "__init__.py":
        assert "import" not in re.sub(r'^""".*?"""', "", text, flags=re.DOTALL)


def test_importing_settings_and_plans_pulls_in_no_torch():
    code = "import sys, bot.cli, bot.settings, bot.records, bot.plan.destination; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)
