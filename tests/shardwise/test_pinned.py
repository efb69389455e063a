"""An adapter and a base that change while shards are on their way: what was planned is what is published."""

import pytest

from bot.clients.hub_reader import HubReader
from tests.e2e import desk, hub, models, processes
from tests.tiny.adapters import LORA_VARIANTS, save_adapter
from tests.tiny.models import save_base

__all__ = ["desk", "hub", "models", "processes"]
BASE, ADAPTER = "acme/moving", "alice/moving-lora"


def adapter_of(folder, base, *, seed):
    save_adapter(folder, base, config=LORA_VARIANTS["plain"], architecture="llama", base_name=BASE, seed=seed)
    (folder / "README.md").unlink()
    return folder


def weights(hub, repo_id):
    return {n: p.read_bytes() for n, p in hub.files(repo_id).items() if n.endswith(".safetensors")}


@pytest.mark.slow
def test_what_changes_during_the_run_is_not_mixed_in(desk, tmp_path, monkeypatch):
    base = save_base(tmp_path / "base", "llama", shards=4)
    desk.hub.commit(BASE, base)
    desk.hub.commit(ADAPTER, adapter_of(tmp_path / "adapter", base, seed=1))
    planned = desk.done("plan", ADAPTER, "--to", "alice/still")
    given = ("run", ADAPTER, "--validate", "tensors", "--scratch-limit", planned["traffic"]["least_bytes"])
    desk.done(*given, "--to", "alice/still")
    other = save_base(tmp_path / "other", "llama", shards=4, seed=9)
    newer = adapter_of(tmp_path / "newer", base, seed=9)
    honest, fetched = HubReader.fetch, []

    def fetch(self, model, **named):
        path = honest(self, model, **named)
        if not fetched:
            desk.hub.commit(BASE, other)
            desk.hub.commit(ADAPTER, newer)
        fetched.append(named["name"])
        return path

    monkeypatch.setattr(HubReader, "fetch", fetch)
    done = desk.done(*given, "--to", "alice/moved")
    assert len(fetched) > 1  # the others after it
    assert weights(desk.hub, "alice/moved") == weights(desk.hub, "alice/still")
    pinned = [done["plan"][key]["commit"] for key in ("base", "adapter")]
    assert pinned == [planned[key]["commit"] for key in ("base", "adapter")]
