"""A loopback Hub with alice, bob and the organisation acme, for the tests of the clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from bot.clients import http
from tests.hub.server import LoopbackHub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """Running, with plain LFS, short time-outs, and no waiting between retries: neither ours nor the client's."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    http.configure(3.0)  # other work on the machine must not look like a silent Hub
    with LoopbackHub(tmp_path / "hub") as running:
        running.add_user("alice", orgs=("acme",))
        running.add_user("bob")
        yield running
    set_client_factory(default_client_factory)
    close_session()
