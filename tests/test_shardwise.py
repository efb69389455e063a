"""A merge from Hub to Hub with less disk than the model takes: the same bytes, proven shard by shard."""

import hashlib
import json
import signal

import pytest
import torch
from safetensors import safe_open

from tests.e2e import desk, hub, models, processes
from tests.tiny.adapters import save_adapter
from tests.tiny.models import save_base

__all__ = ["desk", "hub", "models", "processes"]
BASE, ADAPTER = "acme/sharded", "alice/sharded-lora"
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}
TOUCHED = [f"model.layers.{n}.self_attn.{m}_proj" for n in (0, 1) for m in "qv"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory, hub):
    """A llama in several shards, of which the adapter touches some; both on the Hub."""
    root = tmp_path_factory.mktemp("sharded")
    base = save_base(root / "base", "llama", shards=6, dtype="bfloat16")
    adapter = save_adapter(root / "adapter", base, config=LORA | {"target_modules": TOUCHED}, base_name=BASE)
    (adapter / "README.md").unlink()
    hub.commit(BASE, base)
    hub.commit(ADAPTER, adapter)
    return base, adapter


def plan_of(desk, to):
    return desk.done("plan", ADAPTER, "--to", to)["traffic"]


def digests(hub, repo_id):
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in hub.files(repo_id).items()}


def weights(found):
    return {n: d for n, d in found.items() if n.endswith(".safetensors") or n.startswith(("config", "model"))}


def verdicts(document):
    return {check["name"]: check["verdict"] for check in document["report"]["checks"]}


@pytest.fixture(scope="module")
def ordinary(sources, hub):
    """What a merge with all of the disk publishes is compared with."""
    return {}


def test_the_same_bytes_as_with_the_whole_model_on_the_disk(desk, sources):
    desk.done("run", ADAPTER, "--to", "alice/whole", "--validate", "tensors")
    moved = plan_of(desk, "alice/little")
    desk.hub.clear_requests()
    done = desk.done(
        "run", ADAPTER, "--to", "alice/little", "--validate", "tensors", "--scratch-limit", moved["least_bytes"]
    )
    whole, little = digests(desk.hub, "alice/whole"), digests(desk.hub, "alice/little")
    assert weights(whole) == weights(little)
    assert whole.keys() == little.keys()
    assert len([n for n in little if n.endswith(".safetensors")]) > 4
    found = verdicts(done)
    assert (found["changed"], found["untouched"], found["published"]) == ("passed", "passed", "skipped")
    assert done["publication"]["checks"][0]["verdict"] == "passed"  # stored
    assert not any(desk.scratch.iterdir())
