"""Bad input and bad luck: one sentence, one advice, the right exit code, nothing lost, nothing that looks finished."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from bot.weights.writer import ShardWriter
from tests.e2e import ADAPTER, BASE, desk, hub, models, processes, tree, wait_for
from tests.tiny.adapters import rewrite_weights
from tests.tiny.models import save_base

__all__ = ["desk", "hub", "models", "processes"]
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
A_KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B_KEY = A_KEY.replace("lora_A", "lora_B")


# The adapter


def change(folder, **tensors):
    rewrite_weights(folder, lambda found: found | tensors)


def drop(folder, *names):
    rewrite_weights(folder, lambda found: {n: t for n, t in found.items() if n not in names})


def edit(**keys):
    def apply(folder):
        path = folder / CONFIG
        changed = json.loads(path.read_text()) | keys
        path.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))

    return apply


def truncate(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])


def only_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"never": "opened"}))


def zero_b(folder):
    rewrite_weights(folder, lambda found: {n: t * 0 if "lora_B" in n else t for n, t in found.items()})


def other_architecture(folder):
    rewrite_weights(
        folder, lambda found: {n.replace("q_proj", "query_key_value"): t for n, t in found.items()}
    )


BAD_ADAPTERS = {
    "no config": (lambda f: (f / CONFIG).unlink(), 2, "no-adapter-config"),
    "broken JSON": (lambda f: (f / CONFIG).write_text('{"r": 4,'), 2, "broken-adapter-config"),
    "JSON that is no object": (lambda f: (f / CONFIG).write_text("[1]"), 2, "broken-adapter-config"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), 2, "no-adapter-weights"),
    "empty file": (lambda f: (f / WEIGHTS).write_bytes(b""), 2, "safetensors-broken"),
    "truncated": (truncate, 2, "safetensors-broken"),
    "only pickle": (only_pickle, 3, "pickle-only"),
    "NaN": (lambda f: change(f, **{A_KEY: torch.full((4, 32), torch.nan)}), 3, "adapter-not-finite"),
    "shape of another base": (lambda f: change(f, **{A_KEY: torch.ones(4, 64)}), 3, "shape-mismatch"),
    "empty tensors": (lambda f: change(f, **{A_KEY: torch.empty(0)}), 3, "shape-mismatch"),
    "B all zero": (zero_b, 3, "no-effect"),
    "lora_alpha zero": (edit(lora_alpha=0), 3, "no-effect"),
    "unknown key": (edit(new_arithmetic="cubic"), 3, "unknown-key"),
    "unsupported type": (edit(peft_type="PREFIX_TUNING"), 3, "peft-type-not-mergeable"),
    "unknown type": (edit(peft_type="NEW_IN_2027"), 3, "peft-type-unknown"),
    "no type, no keys of LoRA": (edit(peft_type=None, lora_alpha=..., target_modules=...), 3, "not-peft"),
    "unsupported arithmetic": (edit(use_qalora=True), 3, "feature-unsupported"),
    "no target covers them": (edit(target_modules=["q_proj"]), 3, "adapter-tensor-left-over"),
    "missing tensors": (lambda f: drop(f, B_KEY), 3, "adapter-tensor-missing"),
    "modules that the base lacks": (other_architecture, 3, "adapter-does-not-fit"),
}


@pytest.mark.parametrize(("spoil", "code", "reason"), BAD_ADAPTERS.values(), ids=BAD_ADAPTERS)
def test_a_bad_adapter_in_a_folder_is_refused(desk, spoil, code, reason):
    adapter = desk.adapter()
    spoil(adapter)
    desk.refused("merge", adapter, "--out", desk.out, code=code, reason=reason)
    assert desk.clean("adapter")


REPOS = {name: f"alice/bad-{index}" for index, name in enumerate(BAD_ADAPTERS)}


@pytest.mark.parametrize("name", BAD_ADAPTERS)
def test_a_bad_adapter_on_the_hub_is_refused_and_no_repository_made(desk, name):
    spoil, code, reason = BAD_ADAPTERS[name]
    adapter = desk.adapter(base=BASE)
    spoil(adapter)
    desk.push(REPOS[name], adapter, base=None)
    before = desk.state()
    answer = desk("run", REPOS[name], "--to", "alice/never", "--json")
    assert (answer.code, answer.error["code"]) == (code, reason)
    assert desk.state() == before


def test_what_a_header_shows_costs_no_download(desk):
    adapter = desk.adapter(base=BASE)
    change(adapter, **{A_KEY: torch.ones(4, 64)})
    desk.push("alice/misfit", adapter)
    desk.hub.clear_requests()
    desk.refused("merge", "alice/misfit", "--out", desk.out, code=3, reason="shape-mismatch")
    assert not (desk.root / "cache").exists()


# The base


def test_an_adapter_that_names_no_base_is_refused(desk):
    adapter = desk.adapter(base_model_name_or_path=None)
    error = desk.refused("merge", adapter, "--out", desk.out, code=3, reason="base-unknown")
    assert "--base" in error["advice"]


OPENED = {"open", "os.listdir", "os.scandir"}


@pytest.fixture(scope="module")
def opened():
    """What this process opens, while the list holds anything (an audit hook cannot be taken away)."""
    seen = []

    def hook(event, given):
        if seen and event in OPENED:
            seen.append(str(given[0]))

    sys.addaudithook(hook)
    return seen


@pytest.fixture
def bait(desk, monkeypatch):
    """A folder of this machine that would do as a base, and is easily found."""
    place = desk.place / "bait"
    shutil.copytree(desk.models.base, place)
    monkeypatch.chdir(desk.place)
    monkeypatch.setenv("HOME", str(desk.place))
    return place


@pytest.mark.parametrize("style", ["absolute", "relative", "home", "parent", "windows", "windows-relative"])
def test_a_path_in_an_adapter_of_the_hub_is_never_opened(desk, bait, opened, style):
    name = {
        "absolute": str(bait),
        "relative": "./bait",
        "home": "~/bait",
        "parent": f"../{desk.place.name}/bait",
    }
    name |= {"windows": "C:\\models\\bait", "windows-relative": "models\\bait"}
    adapter = desk.push(f"alice/names-{style}", desk.adapter(base=name[style]), base=None)
    desk.refused("merge", adapter, "--out", desk.out, code=3, reason="base-unknown")
    desk.hub.commit(adapter, {"README.md": f"---\nbase_model: {BASE}\n---\n"})
    opened.append("from here on")
    answer = desk("merge", adapter, "--out", desk.out, "--json")
    looked = [path for path in opened if "bait" in path]
    assert any(str(desk.out.parent) in path for path in opened)
    opened.clear()
    plan = answer.json["plan"]
    assert plan["base"]["location"] == BASE
    assert plan["base_found_by"] == "the adapter's model card"
    assert any(repr(name[style]) in note for note in plan["notes"])
    assert looked == []


def test_a_path_that_reads_like_a_repository_is_looked_for_on_the_hub_alone(desk, bait, monkeypatch):
    monkeypatch.chdir(desk.root)
    desk.push("alice/names-folder", desk.adapter(base="place/bait"), base=None)
    desk.refused("merge", "alice/names-folder", "--out", desk.out, code=3, reason="base-unknown")


def test_a_base_without_safetensors_is_refused(desk):
    desk.hub.commit(
        "acme/pickled", {"config.json": desk.models.base / "config.json", "pytorch_model.bin": b"x" * 99}
    )
    adapter = desk.adapter(base="acme/pickled")
    error = desk.refused("merge", adapter, "--out", desk.out, code=3, reason="base-not-safetensors")
    assert "pickle" in error["sentence"]
    assert "--allow-pickle" in error["advice"]


@pytest.mark.slow
def test_an_allowed_pickle_base_on_the_hub_is_planned_from_its_directory_and_merged(desk):
    files = {p.name: p for p in desk.models.base.iterdir() if "safetensors" not in p.name}
    tensors = {k: v for p in desk.models.base.glob("*.safetensors") for k, v in load_file(p).items()}
    torch.save(tensors, desk.root / "pytorch_model.bin")
    desk.hub.commit("acme/old", {**files, "pytorch_model.bin": desk.root / "pytorch_model.bin"})
    adapter = desk.adapter(base="acme/old")
    plan = desk.done("plan", adapter, "--allow-pickle")
    assert any("weights_only" in note for note in plan["notes"])
    desk.done("merge", adapter, "--out", desk.out, "--allow-pickle", "--validate", "full")
    torch.testing.assert_close(desk.plain(desk.out), desk.wanted(adapter), atol=2e-5, rtol=0)
    desk.done("validate", desk.out, "--adapter", adapter, "--allow-pickle")
    assert not any(desk.scratch.iterdir())


def quantised(desk, name, card=None):
    config = json.loads((desk.models.base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    files = {"config.json": json.dumps(config), "model.safetensors": desk.models.base / "model.safetensors"}
    desk.hub.commit(name, files | ({"README.md": card} if card else {}))


def test_a_quantised_base_without_a_parent_is_refused(desk):
    quantised(desk, "acme/tiny-4bit")
    adapter = desk.adapter(base="acme/tiny-4bit")
    desk.refused("merge", adapter, "--out", desk.out, code=3, reason="base-quantized")


def test_a_quantised_base_leads_to_the_model_that_it_was_made_from(desk):
    quantised(desk, "acme/tiny-bnb", card=f"---\nbase_model: {BASE}\nbase_model_relation: quantized\n---\n")
    adapter = desk.adapter(base="acme/tiny-bnb")
    answer = desk("merge", adapter, "--out", desk.out)
    assert answer.code == 0, answer.err
    assert f"acme/tiny-bnb is quantised (bitsandbytes): the merge goes into {BASE}" in answer.out
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), atol=1e-4)


def test_a_base_that_is_an_adapter_is_refused(desk):
    adapter = desk.adapter(base=ADAPTER)
    desk.refused("merge", adapter, "--out", desk.out, code=3, reason="base-is-adapter")


def test_a_base_of_another_size_is_refused(desk):
    desk.hub.commit("acme/tiny-bert", save_base(desk.place / "bert", "bert_model"))
    desk.refused(
        "merge", ADAPTER, "--base", "acme/tiny-bert", "--out", desk.out, code=3, reason="adapter-does-not-fit"
    )


def test_a_truncated_base_is_refused(desk):
    base = desk.place / "base"
    shutil.copytree(desk.models.base, base)
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:-1000])
    desk.refused("merge", ADAPTER, "--base", base, "--out", desk.out, code=2, reason="safetensors-broken")


# Who may


@pytest.mark.parametrize(("user", "code", "reason"), [("alice", 2, "not-found"), (None, 5, "no-access")])
def test_no_such_repository(desk, user, code, reason):
    desk.sit(user)
    desk.refused("merge", "alice/nothing-here", "--out", desk.out, code=code, reason=reason)
    assert desk.clean()


def test_no_such_revision_subfolder_or_folder(desk):
    desk.refused("plan", f"{ADAPTER}@v9", code=2, reason="revision-not-found")
    desk.refused("plan", f"{ADAPTER}:epoch-9", code=2, reason="no-such-subfolder")
    desk.refused("plan", "./nothing-here", code=2, reason="no-such-folder")
    desk.refused("plan", "three/part/name", code=2, reason="reference-unknown")


@pytest.mark.parametrize("user", ["bob", None])
def test_a_gated_base_without_access(desk, user):
    desk.hub.commit("acme/gated", desk.models.base, gated=True)
    adapter = desk.adapter(base="acme/gated")
    desk.sit(user)
    error = desk.refused("merge", adapter, "--out", desk.out, code=5, reason="gated")
    assert f"{desk.hub.url}/acme/gated" in error["advice"]
    assert desk.clean("adapter")


@pytest.mark.parametrize(("user", "code", "reason"), [("bob", 2, "not-found"), (None, 5, "no-access")])
def test_a_private_adapter_of_somebody_else(desk, user, code, reason):
    desk.push("alice/private-lora", desk.models.adapter, private=True)
    desk.sit(user)
    desk.refused("merge", "alice/private-lora", "--out", desk.out, code=code, reason=reason)


def test_a_base_that_may_be_private_is_said_to_be_so(desk):
    desk.hub.commit("acme/hidden", desk.models.base, private=True)
    desk.push("alice/of-hidden", desk.models.adapter, base="acme/hidden")
    desk.sit("bob")  # to whom the Hub says that there is none
    error = desk.refused("plan", "alice/of-hidden", code=3, reason="base-unknown")
    assert "or a private one" in error["sentence"]
    assert "HF_TOKEN" in error["advice"]


@pytest.mark.parametrize("token", ["hf_" + "x" * 34, "hf_zeile\nzwei", "hf_ключ"])
def test_a_bad_token(desk, token):
    desk.set(HF_TOKEN=token)
    error = desk.refused("merge", ADAPTER, "--out", desk.out, code=5, reason="bad-token")
    assert token not in json.dumps(error, ensure_ascii=False)


def test_a_token_that_may_only_read_publishes_nothing(desk):
    desk.set(HF_TOKEN=desk.hub.token("alice", role="read"))
    desk.refused("run", ADAPTER, "--to", "alice/never", "--no-validate", code=5, reason="forbidden")
    desk.sit("bob")
    desk.refused("run", ADAPTER, "--to", "alice/never", "--no-validate", code=5, reason="forbidden")


# The host


def test_a_host_that_is_down(desk):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nothing answers there
        desk.set(HF_ENDPOINT=f"http://127.0.0.1:{taken.getsockname()[1]}", MERGE_BOT_ATTEMPTS="2")
        desk.refused("merge", ADAPTER, "--out", desk.out, code=4, reason="hub-unreachable")


def test_a_host_that_hangs(desk):
    desk.set(MERGE_BOT_TIMEOUT="0.2", MERGE_BOT_ATTEMPTS="2")
    desk.hub.fault(f"/api/models/{ADAPTER}", hang=60)
    start = time.monotonic()
    desk.refused("merge", ADAPTER, "--out", desk.out, code=4, reason="hub-timeout")
    assert time.monotonic() - start < 20


def test_a_host_that_falls_silent_before_the_weights(desk):
    desk.set(MERGE_BOT_TIMEOUT="0.5", MERGE_BOT_ATTEMPTS="1")
    desk.hub.fault(r"/resolve/.*/model\.safetensors", method="HEAD", hang=60)  # the plan reads ranges only
    answer = desk("merge", ADAPTER, "--out", desk.out, "--json")
    assert (answer.code, answer.error["code"]) == (4, "hub-timeout")
    assert desk.clean()


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_host_that_stumbles_twice_is_asked_again(desk, status):
    desk.hub.fault(f"/api/models/{ADAPTER}", status=status, headers={"Retry-After": "0"}, times=2)
    desk.hub.fault(r"/blobs/.*/model\.safetensors", status=503, times=2)
    assert desk("plan", ADAPTER).code == 0
    assert [r.status for r in desk.hub.requests if r.path == f"/api/models/{ADAPTER}"] == [
        status,
        status,
        200,
    ]


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "hub-down"), (429, "rate-limit"), (418, "hub-declined")]
)
def test_a_host_that_keeps_failing(desk, status, reason):
    desk.hub.fault(f"/api/models/{ADAPTER}", status=status)
    desk.refused("merge", ADAPTER, "--out", desk.out, code=4, reason=reason)


def test_a_host_that_asks_for_an_hour(desk):
    desk.hub.fault("/api/models/", status=429, headers={"Retry-After": "3600"})
    error = desk.refused("merge", ADAPTER, "--out", desk.out, code=4, reason="rate-limit")
    assert "3600 seconds" in error["advice"]


FULL_BODY = 120_000  # more than the header's range, less than the weights: only their download is cut


def test_a_download_that_is_cut_is_taken_up_again(desk):
    desk.hub.fault(r"/blobs/.*/model\.safetensors", drop_after=FULL_BODY, times=1)
    answer = desk("merge", ADAPTER, "--out", desk.out)
    assert answer.code == 0, answer.err
    assert any(r.bytes_sent == FULL_BODY for r in desk.hub.requests)
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), atol=1e-4)


def test_a_download_that_is_always_cut(desk):
    desk.set(MERGE_BOT_ATTEMPTS="2")
    desk.hub.fault(r"/blobs/.*/model\.safetensors", drop_after=0)
    desk.refused("merge", ADAPTER, "--out", desk.out, code=4, reason="hub-unreachable")


def test_an_upload_that_fails_leaves_no_repository(desk):
    desk.set(MERGE_BOT_ATTEMPTS="2")
    desk.hub.fault("alice/never/commit/main", status=503)
    desk.refused("run", ADAPTER, "--to", "alice/never", "--no-validate", code=4, reason="hub-down")


# The destination


def test_a_folder_of_somebody_else_is_left_alone(desk):
    desk.out.mkdir()
    (desk.out / "thesis.tex").write_text("years of work")
    desk.refused("merge", ADAPTER, "--out", desk.out, code=3, reason="destination-exists")
    desk.refused("run", ADAPTER, "--to", desk.out, code=3, reason="destination-exists")


def test_a_result_with_something_foreign_in_it_is_left_alone(desk):
    desk.done("merge", ADAPTER, "--out", desk.out, "--no-validate")
    (desk.out / "notes.txt").write_text("mine")
    error = desk.refused(
        "merge", ADAPTER, "--out", desk.out, "--dtype", "bfloat16", code=3, reason="destination-exists"
    )
    assert "notes.txt" in error["sentence"]


def test_a_model_of_somebody_else_is_left_alone(desk):
    shutil.copytree(desk.models.base, desk.out)
    desk.refused("merge", ADAPTER, "--out", desk.out, code=3, reason="destination-exists")


@pytest.mark.parametrize(
    ("to", "code", "reason"),
    [
        (("alice/nowhere-yet", "--pr"), 2, "not-found"),
        ((ADAPTER,), 3, "destination-exists"),
        ((BASE,), 3, "destination-exists"),
        (("alice/another", "--pr"), 3, "destination-exists"),  # its adapter would be put on top
    ],
)
def test_a_place_that_cannot_be_published_to_is_refused_before_a_weight_is_fetched(desk, to, code, reason):
    desk.push("alice/another", desk.adapter())
    desk.refused("run", ADAPTER, "--to", *to, code=code, reason=reason)
    assert not (desk.root / "cache").exists()  # headers alone were read


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"


@pytest.mark.parametrize("text", [POINTER, '{"model": {"vocab": {', ""])
def test_a_tokenizer_that_is_not_whole(desk, tmp_path, text):
    shutil.copytree(desk.models.base, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text(text)
    given = ("merge", ADAPTER, "--base", tmp_path / "base", "--out", desk.out)
    error = desk.refused(*given, code=2, reason="sidecar-broken")
    assert "tokenizer.json" in error["sentence"]
    assert not desk.out.exists()


def test_a_file_at_the_destination(desk):
    desk.out.write_text("a file")
    answer = desk("merge", ADAPTER, "--out", desk.out, "--json")
    assert answer.code == 2  # click sees it
    desk.refused("run", ADAPTER, "--to", desk.out, code=3, reason="destination-exists")


def test_a_file_where_the_parent_should_be(desk):
    (desk.place / "file").write_text("a file")
    desk.refused(
        "merge", ADAPTER, "--out", desk.place / "file" / "merged", code=6, reason="destination-unwritable"
    )


def test_a_parent_that_cannot_be_written_to(desk):
    desk.refused("merge", ADAPTER, "--out", "/sys/merged", code=6, reason="destination-denied")


def test_a_cache_that_cannot_be_written_to(desk, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/sys/cache")
    error = desk.refused("merge", ADAPTER, "--out", desk.out, code=6, reason="cache-denied")
    assert "HF_HOME" in error["advice"]


def test_a_scratch_folder_that_cannot_be_made(desk):
    (desk.place / "file").write_text("a file")
    desk.set(MERGE_BOT_SCRATCH=str(desk.place / "file" / "scratch"))
    desk.refused("run", ADAPTER, "--to", "alice/never", code=6, reason="scratch-unwritable")


def test_a_scratch_folder_of_somebody_else(desk):
    (desk.place / "theirs").mkdir()
    (desk.place / "scratch").symlink_to(desk.place / "theirs")
    desk.set(MERGE_BOT_SCRATCH=str(desk.place / "scratch"))
    desk.refused("run", ADAPTER, "--to", "alice/never", code=6, reason="scratch-foreign")
    assert not any((desk.place / "theirs").iterdir())


@pytest.fixture
def small_disk(desk):
    disk = desk.root / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk(desk, small_disk):
    for disk in ("out", "hub"):
        target = small_disk / "merged" if disk == "out" else desk.out
        if disk == "hub":
            desk.set(MERGE_BOT_SCRATCH=str(small_disk))
        arguments = (
            ["merge", ADAPTER, "--out", target] if disk == "out" else ["run", ADAPTER, "--to", "alice/never"]
        )
        desk.refused(*arguments, code=6, reason="disk-full")
        assert tree(small_disk) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_cache(desk, small_disk, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(small_disk))
    desk.refused("merge", ADAPTER, "--out", desk.out, code=6, reason="disk-full")
    assert desk.clean()


def test_a_disk_that_fills_up_in_the_middle(desk, monkeypatch):
    def full(self, *arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    desk.done("merge", ADAPTER, "--out", desk.out)
    before = desk.state()
    monkeypatch.setattr(ShardWriter, "write", full)
    for arguments in (["--out", desk.place / "other"], ["--out", desk.out, "--dtype", "bfloat16"]):
        answer = desk("merge", ADAPTER, *arguments, "--json")
        assert (answer.code, answer.error["code"]) == (6, "disk-full")
        assert "larger disk" in answer.error["advice"]
    assert desk.state() == before  # the older result too


# Interruptions


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_in_the_middle_leaves_nothing(desk, number):
    run = desk.start("merge", ADAPTER, "--out", desk.out, "--json", trap="merge")
    run.trapped()
    assert not desk.clean()
    run.send(number)
    answer = run.end()
    assert answer.code == 130
    assert answer.error["sentence"] == "Interrupted; nothing was left half-written."
    assert "Traceback" not in answer.err
    assert run.worker_is_gone()
    assert desk.clean()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_of_a_long_download_does_not_wait_for_its_end(desk, number):
    desk.hub.fault(r"/blobs/.*/model\.safetensors", slow=10**9, times=1)  # the header's range
    desk.hub.fault(r"/blobs/.*/model\.safetensors", slow=3000)  # the download: a minute
    run = desk.start("merge", ADAPTER, "--out", desk.out)
    weights = hashlib.sha256((desk.models.base / "model.safetensors").read_bytes()).hexdigest()
    wait_for(lambda: any(run.home.glob(f"hub/models--acme--tiny/blobs/{weights}*.incomplete")))
    start = time.monotonic()
    run.send(number)
    answer = run.end()
    assert (answer.code, time.monotonic() - start < 20) == (130, True)
    assert desk.clean()


def test_kill_9_in_the_middle_and_again(desk):
    run = desk.start("merge", ADAPTER, "--out", desk.out, trap="merge")
    run.trapped()
    run.send(signal.SIGKILL)
    assert run.end().code == -signal.SIGKILL
    wait_for(run.worker_is_gone)
    assert not desk.out.exists()
    assert desk("merge", ADAPTER, "--out", desk.out).code == 0
    assert desk.clean("merged")
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), atol=1e-4)


@pytest.mark.slow
def test_kill_9_before_the_commit_and_again(desk):
    desk.hub.fault("alice/killed/commit/main", hang=60, times=1)
    run = desk.start("run", ADAPTER, "--to", "alice/killed")
    wait_for(lambda: not desk.hub.faults._faults[0].times)
    run.send(signal.SIGKILL)
    assert run.end().code == -signal.SIGKILL
    assert desk.hub.files("alice/killed").keys() <= {".gitattributes"}
    assert desk.done("run", ADAPTER, "--to", "alice/killed")["publication"]["existed"] is False
    assert "model.safetensors" in desk.hub.files("alice/killed")
    assert desk.clean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "where"),
    [("POST", "alice/stopped.git/info/lfs"), ("PUT", "/lfs/"), ("POST", "alice/stopped/commit/main")],
)
def test_an_interruption_of_a_publication_takes_the_repository_back(desk, method, where):
    desk.hub.fault(where, method=method, hang=60, times=1)
    run = desk.start("run", ADAPTER, "--to", "alice/stopped")
    wait_for(lambda: not desk.hub.faults._faults[0].times)
    run.send(signal.SIGINT)
    assert run.end().code == 130
    assert desk.hub.state.store.find("model", "alice/stopped") is None
    assert desk.clean()


def test_two_runs_to_one_folder(desk):
    first = desk.start("merge", ADAPTER, "--out", desk.out, trap="merge")
    first.trapped()
    answer = desk("merge", ADAPTER, "--out", desk.out, "--json")
    assert (answer.code, answer.error["code"]) == (6, "destination-busy")
    first.send(signal.SIGINT)
    assert first.end().code == 130
    assert desk.done("merge", ADAPTER, "--out", desk.out)["merged"]["merged"] == 14
    assert desk.clean("merged")


# Usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["merge", ADAPTER],
        ["merge", ADAPTER, "--out", "x", "--dtype", "int8"],
        ["run", ADAPTER],
        ["publish", "no-such-folder", "--to", "alice/x"],
        ["merge"],
        ["marry", ADAPTER],
    ],
)
def test_wrong_usage(desk, arguments):
    desk.refused(*arguments, code=2, reason="usage")
    assert desk.hub.requests == ()
