"""A loopback Hub with alice, bob and the organisation acme, for the tests of the clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants, set_client_factory
from huggingface_hub.utils import _xet
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
    forget()


@pytest.fixture
def xet_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """As `hub`, and it offers Xet, whose library does not try for minutes."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")
    http.configure(3.0)
    _xet.abort_xet_session()  # of an earlier test, with other variables
    with LoopbackHub(tmp_path / "hub", xet=True) as running:
        running.add_user("alice", orgs=("acme",))
        running.add_user("bob")
        yield running
    forget()


def forget() -> None:
    """Sessions and Xet's tokens: another hub may get the same port."""
    set_client_factory(default_client_factory)
    close_session()
    _xet.abort_xet_session()
    _xet.XET_CONNECTION_INFO_CACHE.clear()
