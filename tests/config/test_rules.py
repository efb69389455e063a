"""Which rules apply to a repository, what its own merge-bot.yml may change, and what it may not."""

import time

import pytest

from bot.config.models import Config
from bot.config.rules import may_watch, rules_for
from bot.errors import InputError
from bot.request import Destination


def config(**tables):
    rules = [
        {"repositories": ["acme/internal-*"], "enabled": False},
        {
            "owners": ["acme"],
            "repositories": ["!acme/*-draft"],
            "visibility": "public",
            "validation": "tensors",
        },
        {"repositories": ["partner-*/*-lora"], "destination": "acme/{owner}-{name}", "publish": "hub_pr"},
    ]
    return Config(**{"watch": rules, "repository_file": {"opt_in": ["friends/*"]}, **tables})


# the first rule that matches


@pytest.mark.parametrize(
    ("repository", "rule"),
    [
        ("acme/x", 2),
        ("ACME/X", 2),
        ("acme/internal-x", None),
        ("Acme/Internal-x", None),
        ("acme/x-draft", None),
        ("acme2/x", None),
        ("partner-1/a-lora", 3),
        ("partner-1/a", None),
        ("friends/x", None),
    ],
)
def test_the_first_rule_that_matches_holds(repository, rule):
    found = rules_for(config(), repository)
    assert (found.rule if found else None) == rule


def test_a_rule_changes_what_it_names_and_leaves_the_rest_as_it_is():
    found = rules_for(config(defaults={"validation": "structure", "dtype": "bfloat16"}), "acme/x")
    assert found is not None
    assert (found.visibility, found.validation, found.dtype, found.publish) == (
        "public", "tensors", "bfloat16", "repository",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("template", "subfolder", "made"),
    [
        ("{owner}/{name}-merged", "", "acme/x-merged"),
        ("{owner}/{name}-merged", "final", "acme/x-merged-final"),
        ("{owner}/{name}-merged", "runs/final", "acme/x-merged-runs-final"),
        ("{owner}/{name}-{subfolder}", "final", "acme/x-final"),
        ("{owner}/{base_name}-{name}", "", "acme/Llama-x"),
        ("{base}-{name}", "", "meta/Llama-x"),
    ],
)
def test_the_destination_is_made_of_the_names(template, subfolder, made):
    found = rules_for(config(watch=[{"owners": ["acme"], "destination": template}]), "acme/x")
    assert found is not None
    assert found.to(base="meta/Llama", subfolder=subfolder) == Destination(kind="repository", location=made)


def test_publishing_as_a_hub_pr_and_in_public():
    partner, own = rules_for(config(), "partner-1/a-lora"), rules_for(config(), "acme/x")
    assert partner
    assert own
    assert partner.to(base="b/c") == Destination(kind="hub_pr", location="acme/partner-1-a-lora")
    assert own.to(base="b/c").public


def test_names_that_make_no_repository_are_refused():
    found = rules_for(config(), "acme/" + "x" * 90)
    assert found is not None
    with pytest.raises(InputError, match="no repository"):
        found.to(base="b/c")


def test_braces_in_a_name_are_no_fields():
    found = rules_for(config(watch=[{"owners": ["acme"], "destination": "{base}-{name}"}]), "acme/x")
    assert found is not None
    with pytest.raises(InputError, match="no repository"):
        found.to(base="{owner}/{name.__class__}")


# merge-bot.yml


def test_a_repository_opts_out():
    assert rules_for(config(), "acme/x", b"merge: false") is None
    assert rules_for(config(repository_file={"read": False}), "acme/x", b"merge: false") is not None


def test_a_repository_opts_in_only_where_it_may():
    found = rules_for(config(), "friends/x", b"merge: true\n")
    assert found is not None
    assert found.rule == 0
    assert rules_for(config(), "friends/x", b"dtype: float16") is None
    assert rules_for(config(), "strangers/x", b"merge: true") is None
    assert rules_for(config(), "acme/internal-x", b"merge: true") is None
    assert [may_watch(config(), r) for r in ("acme/x", "friends/x", "strangers/x", "acme/internal-x")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_a_repository_changes_safe_keys():
    text = b'destination: "{owner}/{name}-full"\nvalidation: full\nthorough: true\n'
    text += b"dtype: float16\nvisibility: private\n"
    found = rules_for(config(), "acme/x", text)
    assert found is not None
    assert found.own == ("destination", "visibility", "validation", "thorough", "dtype")
    assert (found.validation, found.thorough, found.dtype) == ("full", True, "float16")
    assert found.to(base="b/c") == Destination(kind="repository", location="acme/x-full", public=False)


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"---\n", b"\xef\xbb\xbfmerge: true\n"])
def test_a_file_that_says_little_changes_nothing(text):
    assert rules_for(config(), "acme/x", text) == rules_for(config(), "acme/x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"destination: elsewhere/x", "has to stay with acme"),
        (b"destination: '{base}-x'", "has to stay with acme"),
        (b"destination: '{owner}/../x'", "is wrong"),
        (b"validation: none", "stricter than tensors"),
        (b"thorough: false", "may be true"),
        (b"runner: hf-jobs", "no key `runner`"),
        (b"allow_pickle: true", "no key `allow_pickle`"),
        (b"\nvalidaton: full", "Line 2 of merge-bot.yml in acme/x"),
        (b"dtype: int4", "`dtype`"),
        (b"merge: perhaps", "`merge`"),
        (b"merge: true\nmerge: false", "twice"),
        (b"- merge", "no list of `key: value`"),
        (b"merge", "no list of `key: value`"),
        (b"merge:\n  deep: 1", "one value behind a key"),
        (b"? [a]\n: 1", "one value behind a key"),
        (b"merge: !!python/object/apply:os.system ['true']", "one value behind a key"),
        (b"dtype: !!python/name:os.system ''", "one value behind a key"),
        (b"a: &a [*a]", "one value behind a key"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "one value behind a key"),
        (b"merge: 1\n---\nmerge: 2", "no YAML"),
        (b"merge: [\n", "no YAML"),
        (b"merge: *nobody", "no YAML"),
        (b"[" * 9000, "no list of `key: value`"),
        (b"- " * 8000, "no YAML"),
        (b"\xff\xfe", "no text"),
        (b"merge: \x00", "no YAML"),
        (b"m" * 50_000_000, "larger than 16 KiB"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else None,
)  # fmt: skip
def test_what_a_file_may_not_say_is_a_clear_sentence_at_once(text, said):
    started = time.process_time()
    with pytest.raises(InputError) as raised:
        rules_for(config(), "acme/x", text)
    assert said in f"{raised.value.sentence} {raised.value.advice}"
    assert len(raised.value.sentence) < 300
    assert time.process_time() - started < 1


def test_a_private_repository_is_never_made_public():
    with pytest.raises(InputError, match="private"):
        rules_for(config(watch=[{"owners": ["acme"]}]), "acme/x", b"visibility: public")


def test_the_same_strictness_may_be_said_again():
    found = rules_for(config(), "acme/x", b"validation: tensors\nvisibility: public")
    assert found == rules_for(config(), "acme/x", b"visibility: public\nvalidation: tensors")
