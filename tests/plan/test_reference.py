"""How models are written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.errors import InputError
from bot.plan.reference import Reference, is_path, is_repo_id, parse


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("owner/name", Reference(repo_id="owner/name")),
        ("gpt2", Reference(repo_id="gpt2")),
        ("owner/name@v1.0", Reference(repo_id="owner/name", revision="v1.0")),
        ("owner/name@refs/pr/3", Reference(repo_id="owner/name", revision="refs/pr/3")),
        ("owner/name:checkpoint-5", Reference(repo_id="owner/name", subfolder="checkpoint-5")),
        ("owner/name@dev:a/b", Reference(repo_id="owner/name", revision="dev", subfolder="a/b")),
        ("./x", Reference(folder=Path("x"))),
        ("/x/y", Reference(folder=Path("/x/y"))),
        ("../x", Reference(folder=Path("../x"))),
    ],
)
def test_references(text: str, reference: Reference) -> None:
    assert parse(text) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b/c",
        "a b",
        "owner/",
        "/".join("a" * 3),
        "owner/na--me",
        "a/b:../c",
        "a/b:/c",
        "a/b:c//d",
        "@main",
        "https://huggingface.co/owner/name",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_a_folder_that_exists_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert parse("owner/name").folder == Path("owner/name")


@pytest.mark.parametrize(
    "text", ["C:\\models\\x", "\\\\server\\share", "~/x", "/content/model", "C:/x", ".."]
)
def test_paths_of_other_machines(text: str) -> None:
    assert is_path(text)
    assert not is_repo_id(text)
