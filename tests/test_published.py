"""What is published is loaded before anyone sees it, and looked at again on the Hub; what is wrong is taken back."""

import json
import shutil
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from bot.clients import hub_target
from bot.clients.hub_publisher import HubPublisher
from bot.publish.result import read_plan
from bot.validate import published
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from tests.e2e import ADAPTER, desk, hub, models, processes
from tests.hub import commits
from tests.hub.records import FileEntry
from tests.tiny.adapters import LORA_VARIANTS, save_adapter
from tests.tiny.models import save_base

__all__ = ["desk", "hub", "models", "processes"]
FAST = ["--validate", "structure"]


def checks(publication):
    return {
        check["name"]: (check["verdict"], check["figure"], check["detail"]) for check in publication["checks"]
    }


def repository(desk, repo_id):
    return desk.hub.state.store.find("model", repo_id)


def failed(desk, *arguments, reason):
    answer = desk(*arguments, "--json")
    assert (answer.code, answer.error["code"]) == (7, reason), answer.err
    assert answer.json["report"]["verdict"] == "failed"
    return answer.json


def looked_at(folder, place, *, model_class="AutoModelForCausalLM"):
    """The check of what is loaded from `place`, against the merged model in `folder`."""
    return published.check_published(
        place, name="published", plan=read_plan(folder), merged=folder, model_class=model_class
    )


@pytest.fixture
def merged(desk):
    desk.done("merge", ADAPTER, "--out", desk.out, *FAST)
    return desk.out


# what is loaded


def test_the_merged_model_is_loaded_as_its_files_have_it(merged):
    check = looked_at(merged, merged)
    assert (check.verdict, check.figure) == ("passed", "LlamaForCausalLM, 14 of 14 changed tensors")


def test_a_class_that_the_auto_class_does_not_lead_to_is_loaded_itself(merged):
    found = looked_at(merged, merged, model_class="AutoModelForMaskedLM")
    assert (found.verdict, found.figure.partition(",")[0]) == ("passed", "LlamaForCausalLM")


def test_memory_is_counted_in_the_dtype_that_the_config_names(merged):
    layout = read_layout(LocalFiles(merged))
    path = merged / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "float64"}))
    assert published._needed(layout, merged) == 2 * layout.total_bytes


def test_an_adapter_beside_the_weights_is_loaded_on_top_and_found(desk, merged):
    place = shutil.copytree(merged, desk.place / "beside")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(desk.models.adapter / name, place)
    check = looked_at(merged, place)
    assert check.verdict == "failed"
    assert "an adapter on top of the merged weights: the delta is there twice" in check.detail


@pytest.mark.parametrize("change", ["other", "base", "broken"])
def test_other_weights_than_those_that_were_checked_are_found(desk, merged, change):
    place = shutil.copytree(merged, desk.place / change)
    weights = place / "model.safetensors"
    tensors = load_file(weights)
    if change == "other":
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 0.01
        save_file(tensors, weights, metadata={"format": "pt"})
    elif change == "base":
        shutil.copy(desk.models.base / "model.safetensors", weights)
    else:
        weights.write_bytes(weights.read_bytes()[:-1000])
    check = looked_at(merged, place)
    assert check.verdict == "failed"
    told = {"other": "model.layers.1.mlp.up_proj.weight.", "base": " and 9 more.", "broken": "does not load"}
    assert told[change] in check.detail


def test_what_does_not_fit_into_memory_is_offloaded(merged, monkeypatch):
    monkeypatch.setattr(published, "available", lambda: 100_000)
    assert looked_at(merged, merged).verdict == "passed"


def test_what_cannot_even_be_offloaded_is_skipped_with_the_figure(merged, monkeypatch):
    monkeypatch.setattr(published, "available", lambda: 1)
    monkeypatch.setattr(published, "_spread", lambda offload, *, memory: {"device_map": "nowhere"})
    check = looked_at(merged, merged)
    assert check.verdict == "skipped"
    assert "of memory, 1 B are free" in check.detail
    monkeypatch.setattr(published, "disk_usage", lambda place: SimpleNamespace(free=0))
    check = looked_at(merged, merged)
    assert (check.verdict, "as much disk" in check.detail) == ("skipped", True)


def test_experts_that_are_stacked_as_they_are_loaded(desk):
    base = save_base(desk.place / "base", "mixtral")
    adapter = save_adapter(
        desk.place / "adapter", base, config=LORA_VARIANTS["target_parameters"], architecture="mixtral"
    )
    desk.done("merge", adapter, "--out", desk.out, *FAST)
    check = looked_at(desk.out, desk.out)
    assert check.verdict == "passed"
    assert check.figure.startswith("MixtralForCausalLM, 16 of ")
    place = shutil.copytree(desk.out, desk.place / "other")
    tensors = load_file(place / "model.safetensors")
    for name in (n for n in tensors if ".experts." in n):
        tensors[name] = tensors[name] * 2
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    assert "experts" in looked_at(desk.out, place).detail


# what is published


def test_a_small_model_is_loaded_before_and_again_by_its_id(desk):
    done = desk.done("run", ADAPTER, "--to", "alice/loaded", *FAST)
    assert done["report"]["checks"][-1]["name"] == "published"
    assert done["report"]["checks"][-1]["verdict"] == "passed"
    found = checks(done["publication"])
    assert {name: verdict for name, (verdict, *_) in found.items()} == {
        "stored": "passed",
        "reloaded": "passed",
    }
    assert found["reloaded"][1] == "LlamaForCausalLM, 14 of 14 changed tensors"
    assert found["stored"][1].startswith(f"{len(desk.hub.files('alice/loaded')) - 1} files, ")
    report = json.loads(desk.hub.files("alice/loaded")["merge_report.json"].read_text())
    assert report["checks"][-1]["name"] == "published"
    assert "| published | passed |" in desk.hub.files("alice/loaded")["README.md"].read_text()
    assert desk.clean()
    told = desk("run", ADAPTER, "--to", "alice/loaded-too", *FAST).out
    assert "✓ stored: " in told
    assert "✓ reloaded: LlamaForCausalLM, 14 of 14 changed tensors" in told


def test_a_large_one_is_fetched_again_only_when_it_is_asked_for(desk, monkeypatch):
    monkeypatch.setattr("bot.publishing.SMALL", 1000)
    desk.done("merge", ADAPTER, "--out", desk.out, *FAST)
    for number, reload in enumerate(("auto", "never", "always")):
        desk.hub.clear_requests()
        done = desk.done("publish", desk.out, "--to", f"alice/reload-{number}", "--reload", reload)
        verdict, _, detail = checks(done)["reloaded"]
        assert verdict == ("passed" if reload == "always" else "skipped")
        assert reload == "always" or "--reload always does" in detail
        assert (desk.weights_read() > 0) == (reload == "always")


def test_a_hub_that_cannot_be_asked_again_is_no_fault_of_the_model(desk):
    desk.hub.fault("/blobs/", method="GET", status=503)
    desk.done("merge", desk.models.adapter, "--base", desk.models.base, "--out", desk.out, *FAST)
    desk.set(MERGE_BOT_ATTEMPTS="1")
    done = desk.done("publish", desk.out, "--to", "alice/unasked")
    verdict, _, detail = checks(done)["reloaded"]
    assert (verdict, "status 503" in detail) == ("skipped", True)
    assert repository(desk, "alice/unasked") is not None


def test_what_transformers_loads_otherwise_is_not_published(desk, monkeypatch):
    honest = published._equal
    monkeypatch.setattr(published, "_equal", lambda value, stored: honest(value * 2, stored))
    before = desk.state()
    found = failed(desk, "run", ADAPTER, "--to", "alice/other", *FAST, reason="validation-published")
    assert "Loaded otherwise than the files have them" in found["error"]["sentence"]
    assert desk.state() == before


# what is wrong on the Hub


def test_a_hub_pr_with_the_adapter_left_in_it_is_closed(desk, monkeypatch):
    adapter = desk.push("alice/forgetful", desk.models.adapter)
    monkeypatch.setattr(HubPublisher, "_deletions", lambda *_: [])
    found = failed(desk, "run", adapter, "--to", adapter, "--pr", *FAST, reason="publication-stored")
    assert "adapter_config.json lies there, too" in found["error"]["sentence"]
    assert found["error"]["advice"] == "Hub PR #1 was closed: do not merge it."
    thread = desk.hub.state.store.discussion(repository(desk, adapter), 1)
    assert thread.status == "closed"
    assert any("Please do not use or merge it" in str(event) for event in thread.events)


def test_loading_it_by_its_id_finds_that_adapter_too(desk, monkeypatch):
    adapter = desk.push("alice/forgetful-too", desk.models.adapter)
    monkeypatch.setattr(HubPublisher, "_deletions", lambda *_: [])
    monkeypatch.setattr(hub_target, "shadow", lambda left, *, added: None)
    failed(desk, "run", adapter, "--to", adapter, "--pr", *FAST, reason="publication-reloaded")
    assert desk.hub.state.store.discussion(repository(desk, adapter), 1).status == "closed"


def test_a_new_repository_in_which_the_hub_stores_something_else_is_private_and_says_so(desk, monkeypatch):
    desk.hub.commit("bob/other", {"model.safetensors": b"x" * 2000})
    wrong = desk.hub.state.store.resolve(repository(desk, "bob/other"), "main").files["model.safetensors"]
    monkeypatch.setattr(
        commits, "_large", lambda store, repo, path, sha256: FileEntry.large(wrong.sha256, wrong.size)
    )
    command = ["run", ADAPTER, "--to", "alice/mangled", "--public", *FAST]
    found = failed(desk, *command, reason="publication-stored")
    assert "model.safetensors is not there as it was checked" in found["error"]["sentence"]
    assert "alice/mangled" in found["error"]["advice"]
    assert repository(desk, "alice/mangled").private is True
    assert desk.hub.files("alice/mangled")["README.md"].read_text().startswith("# Do not use this model")
    assert desk("run", ADAPTER, "--to", "alice/mangled", *FAST).code == 3  # not taken for a result


def test_what_was_there_before_is_named(desk, monkeypatch):
    desk.done("run", ADAPTER, "--to", "alice/once-more", *FAST)
    before = repository(desk, "alice/once-more").main
    honest = commits._regular

    def mangled(store, path, value):
        return store.blobs.add_bytes(b"{}") if path == "config.json" else honest(store, path, value)

    monkeypatch.setattr(commits, "_regular", mangled)
    command = ["run", ADAPTER, "--dtype", "bfloat16", "--to", "alice/once-more", *FAST]
    found = failed(desk, *command, reason="publication-stored")
    assert "config.json is not there as it was checked" in found["error"]["sentence"]
    assert before in found["error"]["advice"]
    assert repository(desk, "alice/once-more").main != before


def test_what_cannot_be_taken_back_is_said(desk, monkeypatch):
    adapter = desk.push("alice/stuck", desk.models.adapter)
    monkeypatch.setattr(HubPublisher, "_deletions", lambda *_: [])
    desk.hub.fault("/discussions/1/status", status=403)
    found = failed(desk, "run", adapter, "--to", adapter, "--pr", *FAST, reason="publication-stored")
    assert found["error"]["advice"].startswith("Hub PR #1 could not be closed (")
