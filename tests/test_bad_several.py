"""Several adapters that do not go together, and recipes that make no sense: one sentence, one advice, nothing left."""

import json
import shutil

import pytest
import torch

from tests.e2e import ADAPTER, BASE, desk, hub, models, processes
from tests.test_bad_input import A_KEY, change, zero_b
from tests.tiny.adapters import edit_config, save_adapter

__all__ = ["desk", "hub", "models", "processes"]
CAT = ("--combination", "cat", "--weights", "1", "0.5")


@pytest.fixture
def two(desk):
    """Two adapters of one base, by what is done to the second; or by a config that it is made from."""

    def make(spoil=None, **config):
        first = desk.adapter("first")
        if config:
            scale = {} if "peft_type" in config else {"lora_alpha": 8}
            config = {"r": 4, "target_modules": ["q_proj"], **scale, **config}
            second = save_adapter(desk.place / "second", desk.models.base, config=config, seed=3)
        else:
            second = desk.adapter("second")
            change(second, **{A_KEY: torch.ones(8, 32)[: rank(second)]})
        if spoil:
            spoil(second)
        return first, second

    return make


def rank(folder):
    return json.loads((folder / "adapter_config.json").read_text())["r"]


RECIPES = {
    "nothing says how": ((), "recipe"),
    "stack and combination": (("--stack", *CAT), "usage"),
    "weights and nothing else": (("--weights", "1", "1"), "usage"),
    "weights in a stack": (("--stack", "--weights", "1", "1"), "recipe"),
    "no weights": (("--combination", "cat"), "recipe"),
    "one weight": (("--combination", "cat", "--weights", "1"), "recipe"),
    "three weights": (("--combination", "cat", "--weights", "1", "2", "3"), "recipe"),
    "not a number": (("--combination", "cat", "--weights", "nan", "1"), "recipe"),
    "infinite": (("--combination", "cat", "--weights", "1,inf"), "recipe"),
    "a word": (("--combination", "cat", "--weights", "1,much"), "usage"),
    "all zero": (("--combination", "cat", "--weights", "0", "0.0"), "recipe"),
    "unknown": (("--combination", "slerp", "--weights", "1", "1"), "usage"),
    "ties without density": (("--combination", "ties", "--weights", "1", "1"), "recipe"),
    "density of nothing": (("--combination", "ties", "--density", "0", "--weights", "1", "1"), "recipe"),
    "density above one": (("--combination", "ties", "--density", "1.5", "--weights", "1", "1"), "recipe"),
    "density nan": (("--combination", "ties", "--density", "nan", "--weights", "1", "1"), "recipe"),
    "density for cat": ((*CAT, "--density", "0.5"), "recipe"),
    "a seed for ties": (
        ("--combination", "ties", "--density", "1", "--seed", "1", "--weights", "1", "1"),
        "recipe",
    ),
    "signs for linear": (
        ("--combination", "linear", "--majority-sign-method", "total", "--weights", "1", "1"),
        "recipe",
    ),
    "a rank for cat": ((*CAT, "--svd-rank", "3"), "recipe"),
    "rank zero": (("--combination", "svd", "--svd-rank", "0", "--weights", "1", "1"), "usage"),
}


@pytest.mark.parametrize(("flags", "reason"), RECIPES.values(), ids=RECIPES)
def test_a_recipe_that_makes_no_sense_is_wrong_usage(desk, two, flags, reason):
    first, second = two()
    answer = desk("merge", first, second, *flags, "--out", desk.out, "--json")
    assert (answer.code, answer.error["code"]) == (2, reason)
    assert answer.error["advice"]
    assert desk.clean("first", "second")


def test_one_adapter_is_no_stack(desk):
    error = desk.refused("plan", desk.adapter(), "--stack", code=2, reason="recipe")
    assert "stack" in error["sentence"]


PAIRS = {
    "DoRA": ({"use_dora": True}, "combination-unsupported", "DoRA"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "combination-unsupported", "PiSSA"),
    "OLoRA": ({"init_lora_weights": "olora"}, "combination-unsupported", "OLoRA"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "combination-unsupported", "modules_to_save"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "combination-unsupported", "tokens"),
    "another type": ({"peft_type": "LOHA", "alpha": 4}, "combination-unsupported", "LOHA"),
}


@pytest.mark.parametrize(("config", "reason", "word"), PAIRS.values(), ids=PAIRS)
def test_what_peft_leaves_out_of_a_combination_is_refused_by_name(desk, two, config, reason, word):
    first, second = two(**config)
    error = desk.refused("merge", first, second, *CAT, "--out", desk.out, code=3, reason=reason)
    assert word in error["sentence"]
    assert "second" in error["sentence"]
    assert "--stack" in error["advice"]


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_different_ranks_are_refused_where_a_is_added_to_a(desk, two, method):
    adapters = two(r=2)
    density = () if method == "linear" else ("--density", "0.5")
    flags = ("--combination", method, *density, "--weights", "1", "1")
    error = desk.refused("plan", *adapters, *flags, code=3, reason="ranks-differ")
    assert "cat" in error["advice"]


def test_the_same_adapter_twice_is_refused(desk):
    adapter = desk.adapter()
    shutil.copytree(adapter, desk.place / "twin")
    for flags in (CAT, ("--stack",)):
        desk.refused("plan", adapter, desk.place / "twin", *flags, code=3, reason="adapter-twice")
    desk.refused("plan", ADAPTER, ADAPTER, "--stack", code=3, reason="adapter-twice")


@pytest.mark.parametrize("flags", [CAT, ("--stack",)])
def test_adapters_of_different_bases_are_refused_with_both_names(desk, two, flags):
    other = desk.place / "other"
    shutil.copytree(desk.models.base, other)
    (other / "LICENSE").write_text("another model")
    first, second = two(lambda folder: edit_config(folder, base_model_name_or_path=str(other)))
    error = desk.refused("plan", first, second, *flags, code=3, reason="bases-differ")
    assert str(other) in error["sentence"]
    assert str(desk.models.base) in error["sentence"]
    assert desk("plan", first, second, *flags, "--base", desk.models.base).code == 0


@pytest.mark.parametrize("flags", [CAT, ("--stack",)])
@pytest.mark.parametrize(
    ("spoil", "code", "reason"),
    [
        (zero_b, 3, "no-effect"),
        (lambda f: change(f, **{A_KEY: torch.full((4, 32), torch.nan)}), 3, "adapter-not-finite"),
        (lambda f: change(f, **{A_KEY: torch.ones(4, 64)}), 3, "shape-mismatch"),
        (lambda f: edit_config(f, target_modules=["q_proj"]), 3, "adapter-tensor-left-over"),
        (lambda f: (f / "adapter_config.json").unlink(), 2, "no-adapter-config"),
    ],
    ids=["zero", "nan", "shape", "left over", "no config"],
)
def test_none_hides_behind_another_what_is_wrong_with_it(desk, two, flags, spoil, code, reason):
    adapters = two(spoil)
    desk.refused("merge", *adapters, *flags, "--out", desk.out, code=code, reason=reason)
    assert desk.clean("first", "second")


def test_a_merge_of_something_private_is_not_published_for_all(desk, two):
    _, second = two()
    desk.push("alice/secret", second, private=True)
    flags = ("--stack", "--to", "alice/stacked", "--public")
    desk.refused("run", ADAPTER, "alice/secret", *flags, code=3, reason="wider-than-base")


# Checkpoints in subfolders


def checkpoints(folder, *steps):
    for step in steps:
        place = folder / f"checkpoint-{step}"
        place.mkdir()
        for path in list(folder.glob("adapter_*")):
            shutil.copy(path, place)
    return folder


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_checkpoints_without_an_adapter_above_them_are_listed_in_order(desk, where):
    steps = [1000, *range(100, 1000, 100)]
    folder = checkpoints(desk.adapter("run", base=BASE), *steps)
    for path in folder.glob("adapter_*"):
        path.unlink()
    place = folder if where == "folder" else desk.push("alice/run", folder, base=None)
    error = desk.refused("plan", place, code=2, reason="no-adapter-config")
    assert "10 subfolders (checkpoint-100, checkpoint-200," in error["sentence"]
    assert "…, checkpoint-1000)" in error["sentence"]
    assert f"{place}:checkpoint-1000." in error["advice"]
    chosen = desk.done("plan", f"{place}:checkpoint-1000")["adapter"]
    assert "checkpoint-1000" in chosen["location"] + chosen["subfolder"]


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_checkpoints_below_an_adapter_are_a_note(desk, where):
    folder = checkpoints(desk.adapter("run", base=BASE), 100, 20)
    place = folder if where == "folder" else desk.push("alice/noted", folder, base=None)
    notes = desk.done("plan", place)["notes"]
    assert any("2 subfolders (checkpoint-20, checkpoint-100)" in note for note in notes)
    assert desk.done("plan", f"{place}:checkpoint-20")["notes"] == []
