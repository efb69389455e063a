"""The grammar of `/merge`: what is a command, what is none, and that no line can break it or name this machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.plan import recipe
from bot.plan.reference import parse
from bot.trigger.command import WORDS, Command, Misread, read
from bot.trigger.table import COMBINATIONS, OPTIONS


def misread(line):
    found = read(line)
    assert isinstance(found, Misread), found
    assert found.sentence.endswith(".")
    assert found.advice
    return found


def test_a_line_with_everything():
    line = (
        "/merge alice/a@v2:checkpoint-5 alice/b --base acme/base --to alice/merged --pr --dtype=bfloat16"
        " --combination ties --weights 0.7 -0.3 --density 0.5 --seed 3 --dry-run"
    )
    assert read(line) == Command(
        adapters=("alice/a@v2:checkpoint-5", "alice/b@main"),
        base="acme/base@main",
        to="alice/merged",
        pr=True,
        dtype="bfloat16",
        combination="ties",
        weights=(0.7, -0.3),
        density=0.5,
        seed=3,
        dry_run=True,
    )


@pytest.mark.parametrize("verb", WORDS)
def test_each_word_is_a_command(verb):
    assert read(f"/merge {verb}") == Command(verb=verb)


def test_alone_it_is_a_merge_of_what_the_pr_holds():
    assert read("/merge") == read("/merge   \r") == Command()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "please /merge",
        " /merge",
        "> /merge alice/a",
        "```\n/merge alice/a\n```",
        "    /merge alice/a",
        "Thanks!\n/merge alice/a",
        "/merger",
        "/merge-bot plan",
        "/Merge",
        "`/merge`",
    ],
)
def test_talk_quotes_and_code_are_no_commands(body):
    assert read(body) is None


def test_only_the_first_line_counts():
    assert read("/merge plan\n/merge alice/a --to alice/b") == Command(verb="plan")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("/merge plna", "/merge plan"),
        ("/merge Status", "/merge status"),
        ("/merge docter", "/merge doctor"),
        ("/merge alice/a --dtpye bfloat16", "--dtype"),
        ("/merge alice/a --dtype bflaot16", "bfloat16"),
        ("/merge alice/a --tp alice/b", "--to"),
    ],
)
def test_a_typo_gets_the_nearest_word(line, meant):
    assert meant in misread(line).advice


@pytest.mark.parametrize(
    "line",
    [
        "/merge ./adapter",
        "/merge ../adapter",
        "/merge /etc/passwd",
        "/merge ~/adapter",
        "/merge C:\\adapter",
        "/merge https://evil.example/a",
        "/merge alice/..",
        "/merge alice/a:../../etc",
        "/merge alice/a@../x",
        "/merge alice/a --base ./base",
        "/merge alice/a --base /models/private",
        "/merge alice/a --base ..",
        "/merge alice/a --initial-adapter ~root/x",
        "/merge alice/a --to ./merged",
        "/merge alice/a --to /srv/www",
        "/merge --folder /etc",
        "/merge --folder ../..",
        "/merge alice/a --device cuda",
        "/merge alice/a --allow-pickle",
        "/merge alice/a --out x",
        "/merge alice/a --validate none",
        "/merge alice/a --no-validate",
    ],
)
def test_a_comment_names_nothing_of_this_machine(line):
    misread(line)


@pytest.mark.parametrize(
    "line",
    [
        '/merge "alice/a',
        "/merge alice/a --to",
        "/merge alice/a --to --pr",
        "/merge alice/a --to a/b --to a/c",
        "/merge alice/a --pr",
        "/merge alice/a --to a/b --pr --public",
        "/merge alice/a --to a/b --pr=yes",
        "/merge alice/a --stack --combination cat",
        "/merge alice/a --weights",
        "/merge alice/a --svd-rank 1.5",
        "/merge alice/a --folder adapters/a",
        "/merge status alice/a",
        "/merge cancel --now",
        "/merge doctor alice/a alice/b",
        "/merge alice/a and alice/b",
        "/merge alice/a $(touch pwned)",
        "/merge alice/a ; rm -rf /",
        "/merge " + "alice/a " * 17,
        "/merge alice/" + "a" * 3000,
        "/merge alice/a\x1b[31m",
    ],
)
def test_what_makes_no_sense_is_said(line):
    misread(line)


def test_a_folder_of_the_name_where_the_bot_runs_is_not_taken_for_the_adapter(tmp_path, monkeypatch):
    (tmp_path / "alice" / "a").mkdir(parents=True)
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    found = read("/merge alice/a --base gpt2")
    assert parse(found.adapters[0]).repo_id == "alice/a"
    assert parse(found.base).repo_id == "gpt2"


def test_the_combinations_are_the_merges():
    assert set(COMBINATIONS) == set(recipe.COMBINATIONS)


def test_every_option_has_its_field():
    assert {option.field for option in OPTIONS} <= set(Command.__dataclass_fields__)


WORD = st.sampled_from(
    [
        "plan",
        "alice/a",
        "--to",
        "--base",
        "--weights",
        "0.5,",
        "-1",
        '"',
        "'",
        "\\",
        "=",
        "--",
        "@",
        ":",
        "..",
        "\x00",
    ]
) | st.text(max_size=12)


@given(st.lists(WORD, max_size=8))
def test_no_line_breaks_it(words):
    found = read("/merge " + " ".join(words))
    assert found is None or isinstance(found, Command | Misread)
    if isinstance(found, Command):
        for text in (*found.adapters, found.base or "a/b", found.initial_adapter or "a/b", found.to or "a/b"):
            assert parse(text).folder is None
        assert ".." not in found.folder
        assert not found.folder.startswith(("/", "~"))


@given(st.text())
def test_no_comment_breaks_it(body):
    read(body)
    read(f"/merge {body}")
