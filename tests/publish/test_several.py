"""Cards, first comments and published plans of a merge of several adapters: all of them, and no folder of ours."""

import yaml

from bot.plan.key import job_key
from bot.publish.messages import body, title
from bot.publish.model_card import model_card
from bot.publish.shareable import shareable
from bot.records import Pinned, Plan
from bot.request import MergeRequest, Recipe
from bot.serial import as_dict, from_dict, to_json
from tests.publish.samples import a_plan, a_report

SECOND = Pinned(kind="folder", location="/home/ada/secret/poems-lora", commit="sha256:" + "c" * 64)
RECIPE = Recipe(method="dare_ties", weights=(0.7, -0.25), density=0.5, majority_sign_method="total", seed=3)
PLAN = a_plan(further=(SECOND,), recipe=RECIPE)
STACK = a_plan(further=(SECOND,), recipe=Recipe(method="stack"), stages=(a_plan(), a_plan(adapter=SECOND)))


def card(plan, *cards, base=None):
    first, *others = cards
    more = {"destination": plan.destination, "report": a_report(plan)}
    return model_card(plan, adapter_card=first, further_cards=others, base_card=base, **more)


def licensed(name, more=""):
    return f"---\nlicense: {name}\n{more}---\n"


def test_the_card_names_every_adapter_with_its_weight_and_how_they_were_combined():
    text = card(PLAN, None, None)
    for word in ("alice/cat-lora", "weight 0.7", "weight -0.25", "density 0.5", "signs by total", "seed 3"):
        assert word in text
    assert text.count("- Adapter: ") == 2
    assert "/home/ada" not in text
    assert "# cat-lora and poems-lora, merged" in card(
        a_plan(further=(SECOND,), recipe=RECIPE, destination=None), None, None
    )


def test_the_first_comment_names_every_adapter():
    text = body(PLAN, report=None, destination=PLAN.destination, requested_by=None)
    assert "2 adapters, combined by dare" in text
    assert "weight -0.25" in text
    assert "2 adapters" in title(PLAN)
    assert "stacked: merged one after the other" in body(
        STACK, report=None, destination=STACK.destination, requested_by=None
    )


def test_what_is_published_of_a_stack_names_no_folder_of_this_machine():
    shared = shareable(STACK, plan=STACK)
    assert "/home/ada" not in to_json(shared)
    assert "poems-lora" in to_json(shared)
    assert from_dict(Plan, as_dict(STACK)) == STACK


def test_licences_and_tags_of_all_adapters_are_told():
    cards = (
        licensed("mit", "tags: [cats]\n"),
        licensed("apache-2.0", "tags: [poems]\ndatasets: [bob/poems]\n"),
    )
    text = card(PLAN, *cards, base=licensed("llama3"))
    found = yaml.safe_load(text.split("---\n")[1])
    assert (found["license"], found["datasets"]) == ("llama3", ["bob/poems"])
    assert {"cats", "poems"} <= set(found["tags"])
    assert "the adapters' cards say `mit` and `apache-2.0` and the base model's says `llama3`" in text
    without = card(PLAN, *cards)
    assert "license" not in yaml.safe_load(without.split("---\n")[1])
    assert "`mit` and `apache-2.0`, so this card states none" in without
    same = card(PLAN, cards[0], cards[0])
    assert yaml.safe_load(same.split("---\n")[1])["license"] == "mit"


def test_every_adapter_and_every_word_of_the_recipe_makes_another_job():
    def key(*, recipe=RECIPE, further=(SECOND,), first=PLAN.adapter):
        request = MergeRequest(adapter="a", recipe=recipe)
        return job_key(first, base=PLAN.base, request=request, further=further)

    other = Recipe(method="dare_ties", weights=(0.7, -0.2), density=0.5, majority_sign_method="total", seed=3)
    keys = [
        key(),
        key(recipe=None),
        key(recipe=other),
        key(recipe=Recipe(method="stack")),
        key(further=()),
        key(further=(SECOND, PLAN.base)),
        key(first=SECOND, further=(PLAN.adapter,)),
    ]
    assert len(set(keys)) == len(keys)


def test_several_adapters_make_a_merge_and_one_makes_a_finetune():
    assert yaml.safe_load(card(PLAN, None, None).split("---\n")[1])["base_model_relation"] == "merge"
    assert yaml.safe_load(card(a_plan(), None).split("---\n")[1])["base_model_relation"] == "finetune"
