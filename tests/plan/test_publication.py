"""The policy as a truth table: the whole product of facts, against rules written down here in words."""

from itertools import product

import pytest

from bot.errors import RefusedError
from bot.plan.publication import Facts, Source, decide

OPEN, PRIVATE, GATED = {}, {"private": True}, {"gated": True}
TO = "alice/merged"


def outcome(facts):
    """The code of the refusal, or None."""
    try:
        notes = decide(facts)
    except RefusedError as refusal:
        return refusal.code
    assert all(isinstance(note, str) for note in notes)
    return None


def expected(*, closed, owners, forbidden, audience, attended, access, allowed, code, pickle, allow_pickle):
    """Every rule, one by one; what is refused for several reasons is refused for the first."""
    published, secret = audience != "folder", closed and audience != "folder"
    rules = {
        "remote-code": code,
        "pickle-only": pickle and not allow_pickle,
        "wider-than-base": closed and audience == "public",
        "requester-without-access": secret and access == "no",
        "requester-access-unknown": secret and not attended and access == "unknown",
        "another-owner": secret and not attended and owners != {"alice"},
        "license-forbids": published and forbidden and not allowed,
    }
    return next((reason for reason, refused in rules.items() if refused), None)


@pytest.mark.parametrize("audience", ["folder", "private", "public"])
@pytest.mark.parametrize("attended", [True, False])
@pytest.mark.parametrize("access", ["yes", "no", "unknown"])
def test_the_truth_table(audience, attended, access):
    seen = set()
    states = [OPEN, PRIVATE, GATED, {"private": True, "gated": True}]
    starts = [None, OPEN, GATED]
    licences = [(), ("apache-2.0",), ("cc-by-nc-nd-4.0",), ("other", "house-terms")]
    trust = list(product([False, True], [False, True], [False, True]))
    for base, adapter, start in product(states, states, starts):
        for owner, base_says, adapter_says, allowed in product(
            ["alice", "acme"], licences, licences, [False, True]
        ):
            sources = [
                Source(role="base model", name=f"{owner}/base", owner=owner, licenses=base_says, **base),
                Source(role="adapter", name="Alice/lora", owner="Alice", licenses=adapter_says, **adapter),
            ]
            if start is not None:
                sources.append(Source(role="initial adapter", name="bob/start", owner="bob", **start))
            closed = {s.owner.lower() for s in sources if s.private or s.gated}
            # the reasons that need no such product are told apart once for each state of the base
            some = trust if (adapter, start, base_says, adapter_says) == (OPEN, None, (), ()) else trust[:1]
            for code, pickle, allow_pickle in some:
                told = [
                    Source(**{**vars(sources[0]), "remote_code": "X" * code, "pickle": pickle}),
                    *sources[1:],
                ]
                facts = Facts(
                    sources=tuple(told),
                    audience=audience,
                    destination=TO,
                    attended=attended,
                    access=access,
                    allowed_licenses=frozenset({"cc-by-nc-nd-4.0"} if allowed else ()),
                    allow_pickle=allow_pickle,
                )
                wanted = expected(
                    closed=bool(closed),
                    owners=closed,
                    forbidden="cc-by-nc-nd-4.0" in (*base_says, *adapter_says),
                    audience=audience,
                    attended=attended,
                    access=access,
                    allowed=allowed,
                    code=code,
                    pickle=pickle,
                    allow_pickle=allow_pickle,
                )
                assert outcome(facts) == wanted, facts
                seen.add(wanted)
    assert {None, "remote-code", "pickle-only"} <= seen


BASE = Source(role="base model", name="acme/base", owner="acme", licenses=("apache-2.0",))
ADAPTER = Source(role="adapter", name="alice/lora", owner="alice", licenses=("mit",))


def notes(base=("apache-2.0",), adapter=("apache-2.0",), audience="private", **more):
    sources = [
        Source(role="base model", name="acme/base", owner="acme", licenses=base),
        Source(role="adapter", name="alice/lora", owner="alice", licenses=adapter),
    ]
    return decide(Facts(sources=tuple(sources), audience=audience, destination=TO, **more))


@pytest.mark.parametrize("audience", ["folder", "private", "public"])
def test_licences_that_differ_are_both_named_and_the_bases_is_kept(audience):
    assert notes(audience=audience) == ()
    (note,) = notes(adapter=("mit",), audience=audience)
    assert (
        note == "the licences differ: apache-2.0 (base model), mit (adapter); that of the base model is kept"
    )


def test_a_licence_without_an_identifier_is_said_and_not_refused():
    assert notes(base=(), adapter=()) == (
        "acme/base states no licence: whether the merge may be shared is not known",
    )
    (note,) = notes(base=("other", "house-terms"), adapter=())
    assert "house-terms" in note
    assert notes(base=("other",), adapter=("other",), audience="folder") == ()


@pytest.mark.parametrize(
    "name", ["cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0", "cc-by-nd-2.5"]
)
def test_licences_that_forbid_derivatives(name):
    for sides in ({"base": (name,)}, {"adapter": (name,)}, {"base": ("other", name)}):
        for audience in ("private", "public"):
            with pytest.raises(RefusedError) as refusal:
                notes(**sides, audience=audience)
            assert refusal.value.code == "license-forbids"
            assert f"MERGE_BOT_ALLOW_LICENSES={name.lower()}." in refusal.value.advice
            told = notes(**sides, audience=audience, allowed_licenses=frozenset({name.lower()}))
            assert any("MERGE_BOT_ALLOW_LICENSES" in note for note in told)
        assert any("not be shared" in note for note in notes(**sides, audience="folder"))


SHARED = [
    "apache-2.0", "mit", "openrail", "creativeml-openrail-m", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0",
    "cc-by-nc-sa-4.0", "cc0-1.0", "gpl-3.0", "agpl-3.0", "llama2", "llama3.1", "gemma",
]  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_licences_that_let_a_merge_be_shared(name):
    assert notes(base=(name,), adapter=(name,), audience="public") == ()


@pytest.mark.parametrize(
    ("owned", "owners", "code"),
    [
        ({"alice"}, ("Alice", "alice"), None),
        ({"alice"}, ("alice", "acme"), "requester-access-unknown"),
        ({"alice"}, ("acme", "acme"), "requester-access-unknown"),
        ({"acme"}, ("acme", "acme"), "another-owner"),
        (set(), ("alice", "alice"), "requester-access-unknown"),
    ],
)
def test_what_is_ones_own_one_may_read(owned, owners, code):
    roles = ("base model", "adapter")
    sources = tuple(
        Source(role=role, name=f"{owner}/x", owner=owner, private=True)
        for role, owner in zip(roles, owners, strict=True)
    )
    facts = {"sources": sources, "destination": TO, "attended": False, "owned": frozenset(owned)}
    assert outcome(Facts(audience="private", **facts)) == code
    assert outcome(Facts(audience="public", **facts)) == "wider-than-base"
    assert outcome(Facts(audience="private", access="no", **facts)) == "requester-without-access"
