"""The Hub PR's title and first comment: the manners, the marker, and no pings."""

import pytest

from bot.publish import messages
from bot.publish.marker import find_marker, marker
from bot.publish.shareable import shareable
from bot.records import Patch, Pinned, Plan
from bot.request import Destination
from bot.serial import as_dict, from_dict, to_json
from tests.publish.samples import KEY, a_plan, a_report
from tests.publish.test_model_card import HOSTILE, golden

OWN = Destination(kind="hub_pr", location="Alice/cat-lora")


def body(plan=None, *, destination=OWN, requested_by="alice"):
    plan = plan or a_plan()
    return messages.body(plan, report=a_report(plan), destination=destination, requested_by=requested_by)


def test_body_of_a_pr_on_the_adapters_own_repository():
    golden("hub_pr.md", body())


def test_body_keeps_the_manners():
    text = body()
    for said in (
        "automatically",
        "request of alice",
        "What changes",
        "How it was checked",
        "feel free to close",
    ):
        assert said in text
    assert find_marker(text) == KEY


def test_only_the_adapters_own_repository_loses_files():
    assert "are deleted in the same commit" in body()
    assert "are deleted" not in body(destination=Destination(kind="hub_pr", location="acme/other"))


def test_nobody_is_pinged():
    patch = Patch(rule="r", key=HOSTILE, before=1, after=2, reason=HOSTILE)
    text = body(a_plan(patches=(patch,)), requested_by="@channel <img src=x>")
    assert "@\u200bchannel" in text
    assert "<img" not in text
    assert find_marker(text) == KEY


def test_title_is_within_the_hubs_limits():
    assert 3 <= len(messages.title(a_plan())) <= 200
    long = Pinned(kind="hub", location="acme/" + "x" * 400, commit="b" * 40)
    assert len(messages.title(a_plan(base=long))) == 200
    assert "/home" not in messages.title(
        a_plan(base=Pinned(kind="folder", location="/home/a/b", commit="sha256:0"))
    )


@pytest.mark.parametrize("key", ["", "-->", "a b", "x" * 200, "a\n"])
def test_marker_refuses_keys_that_it_could_not_read_back(key):
    with pytest.raises(ValueError, match="cannot be the key"):
        marker(key)


def test_marker_comes_back():
    assert find_marker(f"text\n{marker('sha256:ab.c-d')}\n") == "sha256:ab.c-d"
    assert find_marker("<!-- adapter-merge-bot key= -->") is None


def test_shareable_records_hold_no_folder_of_this_machine():
    place = Pinned(kind="folder", location="/home/alice/my-lora", commit="sha256:1")
    plan = a_plan(
        adapter=place,
        destination=Destination(kind="folder", location="/home/alice/out"),
        adapter_config={
            "base_model_name_or_path": "/data/llama/7b",
            "target_modules": ["q_proj", r".*\.(k|v)_proj"],
        },
        notes=("read from /home/alice/my-lora",),
    )
    for record in (plan, a_report(plan)):
        shared = shareable(record, plan=plan)
        assert "/home" not in to_json(shared)
        assert "/data" not in to_json(shared)
        assert shared.adapter.location == "my-lora"
    assert shareable(plan, plan=plan).adapter_config["target_modules"] == ["q_proj", r".*\.(k|v)_proj"]
    assert from_dict(Plan, as_dict(shareable(plan, plan=plan))).bindings == plan.bindings
