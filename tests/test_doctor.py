"""`merge-bot doctor` at a desk: folders are repaired once and safely, Hub adapters by a Hub PR, bases are looked at."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from transformers import LlamaConfig, LlamaForCausalLM

from tests.e2e import ADAPTER, BASE, desk, hub, models
from tests.tiny.adapters import edit_config, rewrite_weights
from tests.tiny.architectures import ARCHITECTURES

__all__ = ["desk", "hub", "models"]
CONFIG, ORIGINAL = "adapter_config.json", "adapter_config.original.json"
BROKEN = {"peft_type": "lora", "r": "4", "task_type": "TaskType.CAUSAL_LM", "lora_dropout": None}


def broken(desk, **keys):
    adapter = desk.place / "adapter"
    shutil.rmtree(adapter, ignore_errors=True)
    desk.adapter(base=BASE)
    edit_config(adapter, **(keys or BROKEN))
    return adapter


def rules(found, kind="repair"):
    return {f["rule"] for f in found["findings"] if f["kind"] == kind}


# A folder


def test_an_intact_adapter_is_fine_and_stays_as_it_is(desk):
    adapter = desk.adapter(base=BASE)
    before = desk.state()
    found = desk.done("doctor", adapter, "--fix")
    assert (found["verdict"], found["repaired"], found["written"]) == ("fine", None, None)
    assert desk.state() == before
    assert [(b["name"], b["fits"]) for b in found["base"]] == [(BASE, True)]


def test_a_diagnosis_writes_nothing(desk):
    adapter = broken(desk)
    before = desk.state()
    found = desk.done("doctor", adapter)
    assert found["verdict"] == "repairable"
    assert rules(found) == {"peft-type", "task-type", "training-value", "number"}
    assert all(f["reason"] and f["reference"] for f in found["findings"])
    assert desk.state() == before


def test_fix_keeps_the_first_original_and_changes_nothing_the_second_time(desk):
    adapter = broken(desk)
    was = (adapter / CONFIG).read_bytes()
    desk.done("doctor", adapter, "--fix")
    fixed = (adapter / CONFIG).read_bytes()
    assert json.loads(fixed)["r"] == 4
    assert (adapter / ORIGINAL).read_bytes() == was
    state = desk.state()
    assert desk.done("doctor", adapter, "--fix")["verdict"] == "fine"
    assert desk.state() == state
    edit_config(adapter, r="4")
    desk.done("doctor", adapter, "--fix")
    assert (adapter / ORIGINAL).read_bytes() == was
    again = "adapter_config.original.1.json"
    assert {p.name for p in adapter.iterdir()} == {CONFIG, ORIGINAL, again, "adapter_model.safetensors"}
    assert json.loads((adapter / again).read_bytes())["r"] == "4"


def test_fix_loses_no_original_to_a_file_that_the_adapter_brought(desk):
    adapter = broken(desk)
    was = (adapter / CONFIG).read_bytes()
    (adapter / ORIGINAL).symlink_to("nowhere")
    (adapter / CONFIG).chmod(0o600)
    desk.done("doctor", adapter, "--fix")
    assert (adapter / "adapter_config.original.1.json").read_bytes() == was
    assert (adapter / CONFIG).stat().st_mode & 0o777 == 0o600


def test_a_fix_that_fails_leaves_the_file_as_it_was(desk, monkeypatch):
    adapter = broken(desk)
    before = desk.state()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = desk.refused("doctor", adapter, "--fix", code=6, reason="write-failed")
    assert "no space left" in error["sentence"]
    assert desk.state() == before


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"lora_alpha": 0}, "no effect"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
    ],
)
def test_what_plan_and_merge_would_refuse_is_not_called_fine(desk, keys, words):
    found = desk("doctor", broken(desk, **keys), "--json")
    assert (found.code, found.json["verdict"]) == (3, "refused")
    assert any(words in f["reason"] for f in found.json["findings"] if f["kind"] == "refusal")


def test_weights_that_plan_would_refuse_are_not_called_fine(desk):
    adapter = desk.adapter(base=BASE)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    rewrite_weights(adapter, lambda tensors: tensors | {f"module.{name}": tensors[name]})
    assert rules(desk("doctor", adapter, "--json").json, "refusal") == {"contradiction"}
    (adapter / "adapter_model.safetensors").write_bytes(b"broken")
    assert rules(desk("doctor", adapter, "--json").json, "refusal") == {"safetensors-broken"}


def test_a_key_that_stands_there_twice_is_said(desk):
    adapter = desk.adapter(base=BASE)
    text = (adapter / CONFIG).read_text()
    (adapter / CONFIG).write_text(text.replace("{", '{"lora_alpha": 64,', 1))
    found = desk.done("doctor", adapter)
    assert [f["before"] for f in found["findings"] if f["rule"] == "json"] == [
        "'lora_alpha' more than once, of which the last counts"
    ]


def test_a_token_in_a_config_is_told_nobody(desk):
    secret = "hf_" + "Q" * 34
    address = f"https://user:{secret}@huggingface.co/a/b"
    adapter = broken(desk, base_model_name_or_path=address)
    for command in (
        ["doctor", adapter],
        ["doctor", adapter, "--json"],
        ["plan", adapter],
        ["plan", address],
        ["plan", adapter, "--base", BASE, "--json"],
        ["merge", adapter, "--base", BASE, "--out", desk.out],
    ):
        answer = desk(*command)
        assert secret not in answer.out + answer.err
    assert not any(secret.encode() in p.read_bytes() for p in desk.out.rglob("*") if p.is_file())


def test_what_cannot_be_repaired_ends_with_3_and_its_reason(desk):
    adapter = broken(desk, lora_alpha=None)
    before = desk.state()
    told, asked = desk("doctor", adapter, "--fix"), desk("doctor", adapter, "--fix", "--json")
    assert (told.code, asked.code, asked.json["verdict"]) == (3, 3, "refused")
    assert "lora_alpha is null" in told.out
    assert desk.state() == before


@pytest.mark.parametrize(
    "text", ["", "[1]", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "<html>"]
)
def test_what_is_no_config_is_bad_input(desk, text):
    adapter = desk.adapter()
    (adapter / CONFIG).write_text(text)
    desk.refused("doctor", adapter, code=2, reason="broken-adapter-config")


def test_json_written_by_hand(desk):
    adapter = desk.adapter(base=BASE)
    config = json.loads((adapter / CONFIG).read_text())
    lines = ["\ufeff{ // mine", *(f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in config.items()), "}"]
    (adapter / CONFIG).write_text("\n".join(lines))
    assert rules(desk.done("doctor", adapter, "--fix")) == {"json"}
    assert json.loads((adapter / CONFIG).read_bytes()) == config


def test_what_is_shown_has_the_reasons_and_the_bases(desk):
    out = desk("doctor", broken(desk)).out
    for part in (
        "repairable: 4 repairs",
        "number",
        '"4" → 4',
        "PEFT computes",
        BASE,
        "its shapes fit",
        "--fix",
    ):
        assert part in out


# Plan and merge use the same rules


@pytest.mark.parametrize("keys", [BROKEN, {"r": ..., "target_modules": []}, {"r": 3, "peft_type": None}])
def test_a_broken_config_merges_as_the_intact_one(desk, keys):
    intact, spoiled = desk.adapter("intact", base=BASE), desk.adapter("spoiled", base=BASE)
    edit_config(spoiled, **keys)
    for adapter in (intact, spoiled):
        desk.done("merge", adapter, "--out", desk.place / f"of-{adapter.name}", "--no-validate")
    one, other = ((desk.place / f"of-{n}" / "model.safetensors").read_bytes() for n in ("intact", "spoiled"))
    assert one == other


# A Hub adapter


def hub_adapter(desk, name, **keys):
    adapter = broken(desk, **keys)
    desk.push(f"alice/{name}", adapter, base=None)
    return f"alice/{name}"


def pull_requests(desk, repo_id):
    api = HfApi(endpoint=desk.hub.url, token=desk.hub.token("alice"))
    return api, [d for d in api.get_repo_discussions(repo_id) if d.is_pull_request]


def test_a_hub_adapter_is_repaired_by_one_hub_pr(desk):
    name = hub_adapter(desk, "one-pr")
    found = desk.done("doctor", name, "--fix", "--pr")
    assert (found["publication"]["number"], found["publication"]["existed"]) == (1, False)
    again = desk.done("doctor", name, "--fix", "--pr")
    assert (again["publication"]["number"], again["publication"]["existed"]) == (1, True)
    api, opened = pull_requests(desk, name)
    assert len(opened) == 1
    path = api.hf_hub_download(name, CONFIG, revision="refs/pr/1", cache_dir=desk.place)
    assert json.loads(Path(path).read_text()) == found["repaired"]
    assert json.loads(desk.hub.files(name)[CONFIG].read_text())["r"] == "4"
    comment = api.get_discussion_details(name, 1).events[0].content
    assert '`r`, was `"4"`, now `4`' in comment
    assert "alice" not in comment


def test_a_repair_below_a_folder_of_the_repository(desk):
    adapter = broken(desk)
    desk.hub.commit("alice/nested", {f"best/{p.name}": p for p in adapter.iterdir()})
    desk.done("doctor", "alice/nested:best", "--fix", "--pr")
    files = desk.hub.files("alice/nested", revision="refs/pr/1")
    assert json.loads(files[f"best/{CONFIG}"].read_text())["r"] == 4


@pytest.mark.parametrize("arguments", [["--fix"], ["--pr"]])
def test_a_hub_adapter_is_never_changed_by_accident(desk, arguments):
    desk.refused("doctor", ADAPTER, *arguments, code=2, reason="usage")


def test_a_repair_of_another_revision_is_refused(desk):
    adapter = broken(desk)
    old = desk.hub.commit("alice/moved-on", adapter)
    edit_config(adapter, lora_dropout="0.5")
    desk.push("alice/moved-on", adapter, base=None)
    desk.refused("doctor", f"alice/moved-on@{old}", "--fix", "--pr", code=3, reason="not-main")


def test_without_a_token_no_hub_pr_is_tried(desk):
    name = hub_adapter(desk, "no-token")
    desk.sit(None)
    desk.refused("doctor", name, "--fix", "--pr", code=5, reason="no-token")


# The base


def llama(folder, **sizes):
    """A tiny llama of another shape."""
    LlamaForCausalLM(LlamaConfig(**{**ARCHITECTURES["llama"].sizes, **sizes})).save_pretrained(folder)
    return folder


def card(*names):
    return "---\nbase_model:\n" + "".join(f"- {n}\n" for n in names) + "---\n"


def test_a_path_of_another_machine_becomes_the_cards_base(desk):
    adapter = broken(desk, base_model_name_or_path="/content/llama")
    (adapter / "README.md").write_text(card(BASE))
    desk.push("alice/colab", adapter, base=None)
    found = desk.done("doctor", "alice/colab")
    assert rules(found) == {"base-path"}
    assert found["repaired"]["base_model_name_or_path"] == BASE
    assert [(b["name"], b["fits"]) for b in found["base"]] == [("/content/llama", None), (BASE, True)]


def test_several_candidates_are_listed_and_none_is_guessed(desk, tmp_path):
    wide = llama(tmp_path / "wide", hidden_size=64)
    desk.hub.commit("acme/wide", wide)
    adapter = broken(desk, base_model_name_or_path="/content/llama")
    (adapter / "README.md").write_text(card(BASE, "acme/wide", "acme/gone"))
    desk.push("alice/several", adapter, base=None)
    found = desk.done("doctor", "alice/several")
    fits = {b["name"]: b["fits"] for b in found["base"]}
    assert fits == {"/content/llama": None, BASE: True, "acme/wide": False, "acme/gone": None}
    desk.refused("plan", "alice/several", code=2, reason="base-ambiguous")


def test_a_base_of_another_width_is_refused_before_any_download(desk, tmp_path):
    desk.hub.commit("acme/broad", llama(tmp_path / "broad", hidden_size=64))
    desk.hub.clear_requests()
    error = desk.refused("plan", ADAPTER, "--base", "acme/broad", code=3, reason="base-does-not-fit")
    assert "trained on a 32-wide model; acme/broad has 64" in error["sentence"]
    assert not (desk.root / "cache").exists()
    found = desk.done("doctor", ADAPTER, "--base", "acme/broad")
    assert [(b["named_by"], b["fits"]) for b in found["base"]] == [("--base", False)]


def test_a_base_with_fewer_layers_is_refused(desk, tmp_path):
    desk.hub.commit("acme/short", llama(tmp_path / "short", num_hidden_layers=1))
    error = desk.refused("plan", ADAPTER, "--base", "acme/short", code=3, reason="base-does-not-fit")
    assert "layers; acme/short has 1" in error["sentence"]


def test_a_renamed_base_is_followed_and_said(desk):
    desk.hub.commit("acme/was", desk.models.base)
    desk.hub.rename("acme/was", "acme/is")
    adapter = broken(desk, base_model_name_or_path="acme/was")
    desk.push("alice/on-renamed", adapter, base=None)
    plan = desk.done("plan", "alice/on-renamed")
    assert plan["base"]["location"] == "acme/is"
    assert "acme/was is called acme/is on the Hub now" in plan["notes"]
    assert desk.done("doctor", "alice/on-renamed")["base"][0]["note"] == "called acme/is now"


def test_a_bare_name_is_the_hubs_and_never_a_folder(desk, monkeypatch):
    desk.hub.commit("openai-community/gpt2", desk.models.base)
    desk.hub.alias("gpt2", "openai-community/gpt2")
    (desk.place / "gpt2").mkdir()
    (desk.place / "gpt2" / "config.json").write_text("{}")
    monkeypatch.chdir(desk.place)
    desk.push("alice/on-gpt2", broken(desk, base_model_name_or_path="gpt2"), base=None)
    plan = desk.done("plan", "alice/on-gpt2")
    assert (plan["base"]["kind"], plan["base"]["location"]) == ("hub", "openai-community/gpt2")
    assert "gpt2 is called openai-community/gpt2 on the Hub now" in plan["notes"]


PATHS = [
    "/content/x",
    "./x",
    "../x",
    "~/x",
    "C:\\models\\x",
    "\\\\host\\x",
    "models/llama",
    "x/y/z",
    "file:///etc",
    ".",
    "a\0b",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_in_a_remote_adapter_is_never_opened(desk, monkeypatch, path):
    monkeypatch.chdir(desk.place)
    if path in ("./x", "models/llama", "x/y/z", "."):
        (desk.place / path).mkdir(parents=True, exist_ok=True)
        (desk.place / path / "config.json").write_text("{}")
    name = f"alice/path-{PATHS.index(path)}"
    desk.push(name, broken(desk, base_model_name_or_path=path), base=None)
    desk.refused("plan", name, code=3, reason="base-unknown")
    found = desk.done("doctor", name)
    assert [b["commit"] for b in found["base"]] == [None]


def test_a_path_into_the_hubs_cache_names_the_repository_and_its_commit(desk):
    commit = desk.hub.commit("acme/cached", desk.models.base)
    desk.hub.commit("acme/cached", {"NEWS": "later"})
    path = f"/root/.cache/huggingface/hub/models--acme--cached/snapshots/{commit}"
    desk.push("alice/of-a-cache", broken(desk, base_model_name_or_path=path), base=None)
    plan = desk.done("plan", "alice/of-a-cache")
    assert (plan["base"]["location"], plan["base"]["commit"]) == ("acme/cached", commit)
    assert any("speaks of acme/cached" in note for note in plan["notes"])


def test_a_revision_is_honoured_or_its_absence_is_explained(desk):
    commit = desk.hub.commit("acme/revised", desk.models.base)
    desk.hub.commit("acme/revised", {"NEWS": "later"})
    desk.push("alice/at", broken(desk, base_model_name_or_path="acme/revised", revision=commit), base=None)
    assert desk.done("plan", "alice/at")["base"]["commit"] == commit
    desk.push("alice/at", broken(desk, base_model_name_or_path="acme/revised", revision="v9"), base=None)
    error = desk.refused("plan", "alice/at", code=2, reason="revision-not-found")
    assert "'v9' of acme/revised" in error["sentence"]
    assert "--base-revision" in error["advice"]
    desk.push("alice/at", broken(desk, base_model_name_or_path="acme/revised", revision="unsloth"), base=None)
    plan = desk.done("plan", "alice/at")
    assert plan["base"]["revision"] is None
    assert any(p["rule"] == "revision" and p["before"] == "unsloth" for p in plan["patches"])


def test_a_hub_that_does_not_answer_leaves_a_verdict(desk):
    desk.set(HF_ENDPOINT="http://127.0.0.1:9", MERGE_BOT_ATTEMPTS="1")
    found = desk.done("doctor", broken(desk))
    assert found["verdict"] == "repairable"
    assert found["base"][0]["commit"] is None
    assert found["base"][0]["note"]


def test_weights_that_contradict_the_config_are_named(desk):
    adapter = broken(desk, use_dora=True)
    told = desk("doctor", adapter, "--json")
    assert (told.code, rules(told.json, "refusal")) == (3, {"dora"})
    rewrite_weights(
        adapter,
        lambda found: (
            found
            | {
                n.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(32)
                for n in found
                if "lora_A" in n
            }
        ),
    )
    edit_config(adapter, use_dora=False)
    assert rules(desk.done("doctor", adapter)) == {"dora"}
