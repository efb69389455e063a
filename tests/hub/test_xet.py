"""The loopback Hub's Xet storage, with the real client: what goes up comes down, and shared chunks lie there once."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, close_session, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _xet

from tests.hub.server import LoopbackHub

NAME = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with LoopbackHub(tmp_path / "hub", xet=True) as running:
        running.add_user("alice")
        running.add_user("bob")
        yield running
    forget()


def forget() -> None:
    """Sessions and tokens: another hub may get the same port."""
    close_session()
    _xet.abort_xet_session()
    _xet.XET_CONNECTION_INFO_CACHE.clear()


@pytest.fixture
def alice(hub: LoopbackHub) -> HfApi:
    api = HfApi(endpoint=hub.url, token=hub.token("alice"))
    api.create_repo("alice/model")
    return api


def fetched(hub: LoopbackHub, folder: Path, user: str = "alice", repo_id: str = "alice/model") -> bytes:
    found = hf_hub_download(repo_id, NAME, endpoint=hub.url, token=hub.token(user), local_dir=folder)
    return Path(found).read_bytes()


def by_lfs(hub: LoopbackHub) -> list[str]:
    return [r.path for r in hub.requests if "/lfs" in r.path or r.path.startswith("/blobs/")]


def test_bytes_go_up_and_come_down_by_xet(hub: LoopbackHub, alice: HfApi, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / NAME).write_bytes(data)
    alice.upload_file(path_or_fileobj=tmp_path / NAME, path_in_repo=NAME, repo_id="alice/model")
    assert fetched(hub, tmp_path / "down") == data
    assert by_lfs(hub) == []
    listed = alice.get_paths_info("alice/model", NAME)[0]
    assert listed.lfs.sha256 == hashlib.sha256(data).hexdigest()
    assert listed.xet_hash == hub.cas.find(listed.lfs.sha256)[0] != listed.lfs.sha256
    assert hub.files("alice/model")[NAME].read_bytes() == data


def test_a_hub_pr_of_somebody_else_goes_by_xet(hub: LoopbackHub, alice: HfApi) -> None:
    bob = HfApi(endpoint=hub.url, token=hub.token("bob"))
    add = CommitOperationAdd(NAME, b"new" * 1000)
    done = bob.create_commit("alice/model", [add], commit_message="Try this", create_pr=True)
    assert by_lfs(hub) == []
    assert NAME in hub.files("alice/model", revision=done.pr_revision)
    assert NAME not in hub.files("alice/model")


def test_what_a_test_commits_is_there_too(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.commit("alice/model", {NAME: b"seeded" * 1000})
    assert fetched(hub, tmp_path) == b"seeded" * 1000
    assert by_lfs(hub) == []


def test_shared_chunks_lie_there_once(hub: LoopbackHub, alice: HfApi) -> None:
    data = os.urandom(8 << 20)
    hub.commit("alice/base", {NAME: data})
    hub.cas.forget_clients()  # as another machine
    before = hub.cas.bytes_stored
    assert before > len(data)
    changed = data[: 6 << 20] + os.urandom(1 << 20) + data[7 << 20 :]
    alice.upload_file(path_or_fileobj=changed, path_in_repo=NAME, repo_id="alice/model")
    assert 1 << 20 < hub.cas.bytes_stored - before < 2 << 20


def test_a_wrong_sha256_is_refused(hub: LoopbackHub, alice: HfApi) -> None:
    add = CommitOperationAdd(NAME, b"true" * 1000)
    add.upload_info.sha256 = hashlib.sha256(b"false").digest()
    with pytest.raises(HfHubHTTPError, match="Content does not match"):
        alice.create_commit("alice/model", [add], commit_message="Believe me")
    assert NAME not in hub.files("alice/model")


def test_nobody_commits_what_was_uploaded_elsewhere(hub: LoopbackHub, alice: HfApi) -> None:
    hub.commit("bob/secret", {NAME: b"secret" * 1000}, private=True)
    add = CommitOperationAdd(NAME, b"secret" * 1000)
    assert add.upload_info.sha256
    add._upload_mode, add._is_uploaded = "lfs", True
    with pytest.raises(HfHubHTTPError, match="does not exist in this repository"):
        alice.create_commit("alice/model", [add], commit_message="Mine now")


def test_without_xet_the_client_is_served_by_lfs(
    hub: LoopbackHub, alice: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.commit("alice/seeded", {NAME: b"seeded" * 1000})
    alice.upload_file(path_or_fileobj=b"new" * 1000, path_in_repo=NAME, repo_id="alice/model")
    assert fetched(hub, tmp_path / "new") == b"new" * 1000
    assert fetched(hub, tmp_path / "seeded", repo_id="alice/seeded") == b"seeded" * 1000
    assert len([path for path in by_lfs(hub) if path.startswith("/blobs/")]) == 2


def test_who_may_not_read_or_write_gets_no_token(hub: LoopbackHub, alice: HfApi, tmp_path: Path) -> None:
    hub.commit("alice/gated", {NAME: b"gated" * 1000}, gated=True)
    url = f"{hub.url}/api/models/alice/gated/xet-{{}}-token/main"
    bob = {"Authorization": f"Bearer {hub.token('bob')}"}
    for mode in ("read", "write"):
        with pytest.raises(HfHubHTTPError) as caught:
            _xet._fetch_xet_connection_info_with_url(url.format(mode), bob)
        assert caught.value.response.status_code == 403
