"""The policy at a whole command: what is refused before a weight is asked for, and what is said of the rest."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from bot import pipeline
from bot.errors import RefusedError
from bot.progress import Silent
from bot.request import Destination, MergeRequest
from bot.settings import load
from tests.e2e import ADAPTER, BASE, desk, hub, models, processes

__all__ = ["desk", "hub", "models", "processes"]
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
QUICK = ("--validate", "structure")


def base_with(desk, name, *, card="", config=None, tokenizer=None, **options):
    """The tiny base as another repository, with this card and these changes to its JSON files."""
    folder = desk.root / name
    shutil.copytree(desk.models.base, folder)
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
    for file, change in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        if change:
            content = json.loads((folder / file).read_text()) | change
            (folder / file).write_text(json.dumps(content))
    desk.hub.commit(f"acme/{name}", folder, **options)
    return desk.push(f"alice/on-{name}", desk.models.adapter, base=f"acme/{name}")


def fetched(desk):
    """Whole files of weights that the Hub was asked for; headers are ranges (206)."""
    return [
        r.path for r in desk.hub.requests if "/blobs/" in r.path and r.method == "GET" and r.status == 200
    ]


def unread(desk, *arguments, reason):
    """Refused with that reason, and nobody has asked for a weight."""
    desk.hub.clear_requests()
    error = desk.refused(*arguments, code=3, reason=reason)
    assert desk.hub.requests
    assert not fetched(desk)
    return error


# Who may see it


@pytest.mark.parametrize("kind", ["private", "gated"])
def test_what_would_be_wider_than_the_base_is_not_even_fetched(desk, kind):
    adapter = base_with(desk, f"shut-{kind}", **{kind: True})
    desk.hub.commit(f"alice/open-{kind}", {"README.md": b"soon"})
    for command in (["plan", adapter], ["run", adapter]):
        unread(desk, *command, "--to", f"alice/new-{kind}", "--public", reason="wider-than-base")
        unread(desk, *command, "--to", f"alice/open-{kind}", reason="wider-than-base")
        unread(desk, *command, "--to", adapter, "--pr", reason="wider-than-base")
    desk.done("plan", adapter, "--to", f"alice/new-{kind}")
    desk.done("run", adapter, "--to", desk.out, *QUICK)
    assert len(fetched(desk)) >= 2  # the counter-check: this is what was not asked for above


def test_a_base_that_was_closed_after_the_merge_is_not_published_for_all(desk):
    adapter = base_with(desk, "closing")
    desk.done("merge", adapter, "--out", desk.out, *QUICK)
    desk.hub.state.store.find("model", "acme/closing").gated = True
    desk.refused(
        "publish", desk.out, "--to", "alice/closed-late", "--public", code=3, reason="wider-than-base"
    )
    desk.done("publish", desk.out, "--to", "alice/closed-late")


def unattended(desk, adapter, to, *, access, public=False):
    request = MergeRequest(
        adapter=adapter,
        destination=Destination(kind="repository", location=to, public=public),
        attended=False,
        requester_access=access,
    )
    return pipeline.plan(request, settings=load(), progress=Silent())


def test_nobody_sits_there(desk):
    adapter = base_with(desk, "kept", private=True)
    cases = {
        ("alice/kept", "unknown"): "requester-access-unknown",
        ("alice/kept", "no"): "requester-without-access",
        ("alice/kept", "yes"): "another-owner",
    }
    for (to, access), reason in cases.items():
        with pytest.raises(RefusedError) as refusal:
            unattended(desk, adapter, to, access=access)
        assert refusal.value.code == reason
    assert unattended(desk, adapter, "acme/kept-merged", access="yes").base.private
    assert unattended(desk, ADAPTER, "alice/anything", access="unknown", public=True)


# Licences


def test_a_licence_without_derivatives_stays_in_a_folder_unless_allowed(desk):
    adapter = base_with(desk, "no-derivatives", card="license: cc-by-nc-nd-4.0")
    for command in ("plan", "run"):
        error = unread(desk, command, adapter, "--to", "alice/shared-nd", reason="license-forbids")
        assert "cc-by-nc-nd-4.0" in error["sentence"]
    planned = desk.done("merge", adapter, "--out", desk.out, *QUICK)["plan"]
    assert any("not be shared" in note for note in planned["notes"])
    desk.refused("publish", desk.out, "--to", "alice/shared-nd", code=3, reason="license-forbids")
    desk.set(MERGE_BOT_ALLOW_LICENSES="cc-by-nc-nd-4.0")
    desk.done("publish", desk.out, "--to", "alice/shared-nd")
    assert "license: cc-by-nc-nd-4.0" in desk.hub.files("alice/shared-nd")["README.md"].read_text()


def test_licences_that_differ_are_said_in_the_plan(desk):
    adapter = base_with(desk, "gemmas", card="license: gemma")
    card = {"README.md": b"---\nlicense: mit\n---\n"}
    desk.hub.commit(adapter, card)
    notes = desk.done("plan", adapter)["notes"]
    assert "the licences differ: gemma (base model), mit (adapter); that of the base model is kept" in notes


# Limits


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BASE_BYTES", "10kB"),
        ("ADAPTER_BYTES", "1 kB"),
        ("RANK", "1"),
        ("TENSORS", "5"),
        ("DOWNLOAD_BYTES", "20kb"),
        ("OUTPUT_BYTES", "20KB"),
        ("DISK_BYTES", "1000"),
    ],
)
def test_a_limit_is_met_before_any_weight_is_read(desk, variable, value):
    desk.set(**{f"MERGE_BOT_MAX_{variable}": value})
    for command in (["plan", ADAPTER], ["run", ADAPTER, "--to", "alice/too-large"]):
        error = unread(desk, *command, reason=f"limit-{variable.lower().replace('_', '-')}")
        assert f"MERGE_BOT_MAX_{variable}" in error["sentence"]


def test_a_merge_that_costs_too_much_is_refused(desk):
    desk.set(MERGE_BOT_COST_PER_GB="1000000", MERGE_BOT_MAX_COST="10")  # per GB; the model has some 100 kB
    error = unread(desk, "plan", ADAPTER, reason="limit-cost")
    assert "MERGE_BOT_MAX_COST allows 10." in error["sentence"]
    desk.set(MERGE_BOT_MAX_COST="1000000")
    desk.done("plan", ADAPTER)


def test_several_adapters_are_not_fetched_for_a_merge_that_is_too_large(desk):
    second = desk.push("alice/second-lora", desk.adapter("second", r=8), base=BASE)
    command = ["merge", ADAPTER, second, "--stack", "--out", desk.out]
    for variable in ("DOWNLOAD_BYTES", "OUTPUT_BYTES", "DISK_BYTES"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(f"MERGE_BOT_MAX_{variable}", "20kB")
            reason = f"limit-{variable.lower().replace('_', '-')}"
            unread(desk, *command, reason=reason)


# Code


CODE = "acme/strangers-code"


def test_a_model_that_needs_its_repositorys_code_is_refused_by_name(desk):
    auto_map = {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}
    for number, config in enumerate(
        ({"architectures": ["MineForCausalLM"]}, {"architectures": ["MineForCausalLM"], "model_type": "mine"})
    ):
        adapter = base_with(desk, f"coded-{number}", config={**config, "auto_map": auto_map})
        error = unread(desk, "merge", adapter, "--out", desk.out, reason="remote-code")
        assert "MineForCausalLM" in error["sentence"]


def test_a_native_model_leaves_code_behind(desk):
    ran = desk.root / "ran"
    evil = f"open({str(ran)!r}, 'w')\nclass LlamaConfig: ...\nclass LlamaForCausalLM: ...\nclass T: ...\n".encode()
    desk.hub.commit(CODE, {"evil.py": evil})
    auto_map = {
        "AutoConfig": f"{CODE}--evil.LlamaConfig",
        "AutoModelForCausalLM": f"{CODE}--evil.LlamaForCausalLM",
    }
    tokens = {"auto_map": {"AutoTokenizer": [None, f"{CODE}--evil.T"]}}
    adapter = base_with(desk, "native", config={"auto_map": auto_map}, tokenizer=tokens)
    done = desk.done("run", adapter, "--to", "alice/native-merged")
    assert done["report"]["verdict"] == "passed"
    assert any(e["key"] == "auto_map" and e["after"] is None for e in done["plan"]["config_edits"])
    files = desk.hub.files("alice/native-merged")
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads(files[name].read_text())
    desk.done("merge", adapter, "--out", desk.out, "--no-validate")
    desk.hub.clear_requests()
    model = AutoModelForCausalLM.from_pretrained(desk.out, trust_remote_code=True, dtype=torch.float32)
    assert type(model).__module__.startswith("transformers.")
    assert not [r for r in desk.hub.requests if "strangers-code" in r.path]
    assert not ran.exists()
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), **CLOSE)
