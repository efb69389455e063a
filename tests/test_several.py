"""Several adapters from the command line: combined and stacked, published, found again, and all of them named."""

import shutil

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import HfApi

from bot import cli, pipeline
from bot.plan import recipe
from bot.request import Recipe
from tests.e2e import ADAPTER, BASE, desk, hub, models, processes
from tests.merge.several import joint, one_after_the_other
from tests.tiny.adapters import save_adapter
from tests.tiny.models import logits

__all__ = ["desk", "hub", "models", "processes"]
IA3 = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
LORA = {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture
def second(desk):
    """Another adapter on the same base, in a folder and on the Hub."""

    def make(name, config):
        folder = save_adapter(desk.place / name, desk.models.base, config=config, seed=9)
        (folder / "README.md").write_text("---\nlicense: mit\ntags: [poems]\n---\n")
        return folder, desk.push(f"alice/{name}", folder)

    return make


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        (["--weights", "0.7", "-0.3"], (0.7, -0.3)),
        (["--weights", "0.7,-0.3"], (0.7, -0.3)),
        (["--weights=0.7, -0.3"], (0.7, -0.3)),
        (["--weights", "-1e-1", "2", "--dry-run"], (-0.1, 2.0)),
    ],
)
def test_weights_are_written_apart_or_with_commas(monkeypatch, words, weights):
    seen = []
    monkeypatch.setattr(pipeline, "plan", lambda request, **_: seen.append(request) or 1 / 0)
    cli.main(["plan", "o/a", *words, "o/b", "--combination", "ties", "--density", "0.5"])
    assert (seen[0].adapter, seen[0].further) == ("o/a", ("o/b",))
    assert seen[0].recipe == Recipe(method="ties", weights=weights, density=0.5)


def test_words_behind_the_weights_are_left_alone():
    words = ["a", "--weights", "1", "2", "b", "--out", "3", "4"]
    assert recipe.joined_weights(words) == ["a", "--weights=1,2", "b", "--out", "3", "4"]
    assert recipe.joined_weights(["--weights", "a"]) == ["--weights", "a"]


def test_help_says_that_even_a_plan_fetches_the_adapters():
    shown = " ".join(CliRunner().invoke(cli.cli, ["plan", "--help"]).output.split())
    assert "Even plan fetches their weights then" in shown


@pytest.mark.slow
def test_a_combination_is_published_with_every_adapter_and_weight_named(desk, second):
    folder, name = second("poems", LORA)
    asked = (ADAPTER, name, "--combination", "cat", "--weights", "0.7", "0.3", "--to", "alice/mixed")
    answer = desk.done("run", *asked)
    assert [a["location"] for a in (answer["plan"]["adapter"], *answer["plan"]["further"])] == [ADAPTER, name]
    assert answer["report"]["verdict"] == "passed"
    assert answer["report"]["recipe"]["weights"] == [0.7, 0.3]
    want = logits(
        joint(desk.models.base, [desk.models.adapter, folder], (0.7, 0.3), method="cat"), desk.models.batch
    )
    published = desk.place / "published"
    (published / "merge_report").mkdir(parents=True)
    for file, path in desk.hub.files("alice/mixed").items():
        shutil.copy(path, published / file)
    assert torch.allclose(desk.plain(published), want, atol=1e-4)
    card = desk.hub.files("alice/mixed")["README.md"].read_text()
    for word in (f"[{ADAPTER}]", f"[{name}]", "weight 0.7", "weight 0.3", "combined by cat", "- poems"):
        assert word in card, card
    again = desk.done("run", *asked)
    assert again["publication"]["existed"]
    other = desk.done("run", *asked[:-1], "alice/mixed-again", "--weights", "0.3", "0.7", "--dry-run")
    assert other["plan"]["key"] != answer["plan"]["key"]


@pytest.mark.slow
def test_a_stack_is_merged_validated_and_shown(desk, second):
    folder, _ = second("scale", IA3)
    first = desk.adapter("first")
    answer = desk("merge", first, folder, "--stack", "--out", desk.out, "--validate", "full")
    assert answer.code == 0, answer.err
    assert str(first) in answer.out
    assert str(folder) in answer.out
    assert "stacked: merged one after the other" in answer.out
    want = logits(one_after_the_other(desk.models.base, [first, folder]), desk.models.batch)
    assert torch.allclose(desk.plain(desk.out), want, atol=1e-4)
    report = desk.done("validate", desk.out, "--adapter", first, "--adapter", folder, "--stack")
    assert report["verdict"] == "passed"
    swapped = desk("validate", desk.out, "--adapter", folder, "--adapter", first, "--stack")
    assert swapped.code == 7
    assert "already" in desk("merge", first, folder, "--stack", "--out", desk.out).out


def test_a_stack_is_proposed_with_both_adapters_in_the_first_comment(desk, second):
    _, name = second("scale-hub", IA3)
    desk.hub.commit("alice/target", {"README.md": "mine"})
    answer = desk.done("run", ADAPTER, name, "--stack", "--to", "alice/target", "--pr")
    number = answer["publication"]["number"]
    token = desk.hub.environment("alice")["HF_TOKEN"]
    details = HfApi(desk.hub.url, token=token).get_discussion_details("alice/target", number)
    comment = details.events[0].content
    assert f"[{ADAPTER}]" in comment
    assert f"[{name}]" in comment
    assert "2 adapters, stacked" in comment


def test_a_checkpoint_in_a_subfolder_goes_with_another_adapter(desk):
    folder = desk.adapter("run", base=BASE)
    (folder / "checkpoint-5").mkdir()
    for path in list(folder.glob("adapter_*")):
        shutil.move(path, folder / "checkpoint-5")
    config = save_adapter(desk.place / "b", desk.models.base, config=LORA, seed=4)
    plan = desk.done("plan", f"{folder}:checkpoint-5", config, "--stack", "--base", desk.models.base)
    assert plan["adapter"]["location"].endswith("run/checkpoint-5")
