"""`--to` is read the same way everywhere, and exactly as the Hub would read a repo id."""

import string

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from bot.errors import InputError
from bot.plan import destination
from bot.request import Destination


@pytest.mark.parametrize("text", ["./x", "../x", "/x/y", "~/x", "~", ".", "..", "./a/b/c", "./owner/name"])
def test_what_looks_like_a_path_is_a_folder(text):
    assert destination.parse(text) == Destination(kind="folder", location=text)


def test_owner_and_name_is_a_repository():
    assert destination.parse("ada/tiny-merged").kind == "repository"
    assert destination.parse("ada/tiny-merged", public=True).public


def test_pr_makes_it_a_hub_pr():
    assert destination.parse("ada/tiny", pr=True) == Destination(kind="hub_pr", location="ada/tiny")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "merged",
        "a/b/c",
        "a//b",
        "a/b--c",
        "a/b..c",
        "a/.b",
        "a/b-",
        "a/b.git",
        "a/b c",
        "https://hf.co/a/b",
        "a/b\n",
    ],
)
def test_anything_else_is_refused_with_both_spellings(text):
    with pytest.raises(InputError) as stop:
        destination.parse(text)
    assert stop.value.exit_code == 2
    assert "./" in stop.value.advice
    assert "owner/name" in stop.value.advice


@pytest.mark.parametrize("flags", [{"pr": True}, {"public": True}])
def test_a_folder_takes_no_hub_flags(flags):
    with pytest.raises(InputError) as stop:
        destination.parse("./x", **flags)
    assert stop.value.code.endswith("-with-folder")


def test_public_says_nothing_about_a_hub_pr():
    with pytest.raises(InputError):
        destination.parse("a/b", pr=True, public=True)


@given(st.text(string.ascii_letters + string.digits + "-_.é", max_size=100).map(lambda name: f"owner/{name}"))
@example("owner/" + "a" * 96)
@example("owner/" + "a" * 97)
@example("owner/_")
def test_the_hubs_own_rules_decide(text):
    try:
        validate_repo_id(text)
    except HFValidationError:
        assert not destination.is_repo_id(text)
    else:
        assert destination.is_repo_id(text)
