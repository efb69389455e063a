"""Whole runs against a Hub with Xet: only new bytes travel, by both ways of publishing, and a second run adds none."""

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from safetensors import safe_open

from tests.clients.hub_fixtures import forget
from tests.e2e import desk, models
from tests.hub.server import LoopbackHub
from tests.tiny.adapters import save_adapter
from tests.tiny.architectures import ARCHITECTURES
from tests.tiny.models import save_base

__all__ = ["desk", "models"]
BASE, ADAPTER = "acme/wide", "alice/wide-lora"
# Neither begins a shard: of a file that begins anew, Xet asks about one chunk in a thousand, and these have fifty.
TOUCHED = ["model.layers.1.mlp.up_proj", "model.layers.2.self_attn.q_proj"]
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": TOUCHED}
WIDE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
ENDS = (
    4 * 128 * 1024
)  # bytes: a changed tensor takes the chunks at its two ends with it, 128 KiB at most each


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A base of eight megabytes in three shards, and an adapter that touches two matrices of one."""
    root = tmp_path_factory.mktemp("xet")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WIDE.items():
            patch.setitem(ARCHITECTURES["llama"].sizes, name, value)
        base = save_base(root / "base", "llama", shards=3, dtype="bfloat16")
        adapter = save_adapter(root / "adapter", base, config=LORA, base_name=BASE)
    (adapter / "README.md").unlink()
    return base, adapter


@pytest.fixture
def hub(tmp_path_factory, sources):
    """With Xet, and both on it."""
    with LoopbackHub(tmp_path_factory.mktemp("hub"), xet=True) as running:
        running.add_user("alice", orgs=("acme",))
        running.commit(BASE, sources[0])
        running.commit(ADAPTER, sources[1])
        yield running
    forget()


@pytest.fixture
def by_xet(desk, monkeypatch):
    """The desk, with Xet, and with nothing known of earlier uploads: as another machine."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    desk.hub.cas.forget_clients()
    return desk


def run(desk, to, *more):
    desk.hub.clear_requests()
    before = desk.hub.cas.bytes_stored
    done = desk.done("run", ADAPTER, "--to", to, "--validate", "tensors", *more)
    weights = {n for n in desk.hub.files(to) if n.endswith(".safetensors")}
    assert {r.path for r in desk.hub.requests if r.method == "PUT" and "/lfs/" in r.path} == set()
    assert [c["verdict"] for c in done["publication"]["checks"] if c["name"] == "stored"] == ["passed"]
    return weights, desk.hub.cas.bytes_stored - before


def least(desk):
    return desk.done("plan", ADAPTER, "--to", "alice/planned")["traffic"]["least_bytes"]


def sizes(hub):
    """Bytes of the base's weights, and of those tensors that the adapter touches."""
    files = [path for name, path in hub.files(BASE).items() if name.endswith(".safetensors")]
    touched = 0
    for path in files:
        with safe_open(path.resolve(), framework="pt") as file:
            names = [n for n in file.keys() if n.removesuffix(".weight") in TOUCHED]  # noqa: SIM118
            touched += sum(file.get_tensor(n).nbytes for n in names)
    return sum(path.stat().st_size for path in files), touched


def digests(hub, to):
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in hub.files(to).items()}


def test_by_shards_what_goes_up_is_about_what_the_adapter_touches(by_xet):
    whole, touched = sizes(by_xet.hub)
    weights, added = run(by_xet, "alice/one", "--scratch-limit", least(by_xet))
    assert touched * 0.7 < added < touched + ENDS < whole / 3
    wanted = digests(by_xet.hub, "alice/one")
    for name in weights:
        found = hf_hub_download("alice/one", name, endpoint=by_xet.hub.url, local_dir=by_xet.root / "down")
        assert hashlib.sha256(Path(found).read_bytes()).hexdigest() == wanted[name]
    assert not any(
        r.path.startswith("/blobs/") and r.method == "GET" and r.status == 200 for r in by_xet.hub.requests
    )
    _, added = run(by_xet, "alice/two", "--scratch-limit", least(by_xet))
    assert added == 0  # the same bytes again


@pytest.mark.slow
def test_with_the_whole_model_it_is_no_more(by_xet):
    whole, touched = sizes(by_xet.hub)
    weights, added = run(by_xet, "alice/whole")
    assert touched * 0.7 < added < touched + ENDS < whole / 3
    _, more = run(by_xet, "alice/little", "--scratch-limit", least(by_xet))
    both = [digests(by_xet.hub, to) for to in ("alice/whole", "alice/little")]
    assert [both[0][name] for name in sorted(weights)] == [both[1][name] for name in sorted(weights)]
    assert more == 0


@pytest.mark.slow
def test_after_a_fault_of_the_hub_what_was_sent_is_not_merged_again(by_xet, monkeypatch):
    limit = least(by_xet)
    by_xet.set(MERGE_BOT_ATTEMPTS="1")
    by_xet.hub.fault("/commit/", status=503)
    given = ("run", ADAPTER, "--to", "alice/faulty", "--validate", "tensors", "--scratch-limit", limit)
    assert by_xet(*given).code == 4
    by_xet.hub.clear_faults()
    monkeypatch.setattr("bot.clients.hub_reader.HubReader.fetch", None)  # no shard is fetched again
    weights, added = run(by_xet, "alice/faulty", "--scratch-limit", limit)
    assert (len(weights), added) == (3, 0)
