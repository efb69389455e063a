"""The loopback hub against the real huggingface_hub client: what the other tests take for granted."""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    close_session,
    constants,
    set_client_factory,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import default_client_factory

from tests.hub.server import LoopbackHub

Connect = Callable[..., HfApi]


@pytest.fixture(autouse=True)
def plain_lfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_DISABLE_XET=1, and without waiting between the client's retries."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as running:
        running.add_user("alice", orgs=("acme",))
        running.add_user("bob")
        yield running
    close_session()


@pytest.fixture
def connect(hub: LoopbackHub) -> Connect:
    """`connect("alice")`, `connect("alice", role="read")`, `connect(None)` for a stranger."""

    def client(name: str | None, role: str = "write") -> HfApi:
        return HfApi(endpoint=hub.url, token=hub.token(name, role=role) if name else False)

    return client


def safetensors(**tensors: int) -> bytes:
    """A valid file of F32 vectors with so many elements, all zero."""
    header, at = {}, 0
    for name, count in tensors.items():
        header[name] = {"dtype": "F32", "shape": [count], "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


# files


def test_a_folder_survives_upload_download_and_snapshot(
    hub: LoopbackHub, connect: Connect, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "sub" / "weights.bin").write_bytes(os.urandom(100_000))
    (folder / "model.safetensors").write_bytes(safetensors(a=10))
    api = connect("alice")
    assert api.create_repo("alice/model").repo_id == "alice/model"
    made = api.upload_folder(repo_id="alice/model", folder_path=folder, commit_message="all of it")
    assert api.model_info("alice/model").sha == made.oid
    got = Path(api.snapshot_download("alice/model", cache_dir=tmp_path / "cache"))
    for path in ("config.json", "sub/weights.bin", "model.safetensors"):
        assert (got / path).read_bytes() == (folder / path).read_bytes()
    assert not api.verify_repo_checksums("alice/model", cache_dir=tmp_path / "cache").mismatches
    again = api.upload_folder(repo_id="alice/model", folder_path=folder)
    assert again.oid == made.oid, "nothing changed, so the client makes no commit"


def test_tree_paths_commits_and_refs(hub: LoopbackHub, connect: Connect) -> None:
    first = hub.commit("alice/model", {"config.json": b"{}", "deep/er/a.txt": b"a"}, message="one")
    hub.commit("alice/model", {"model.safetensors": safetensors(a=1)}, message="two")
    api = connect("alice")
    names = [item.path for item in api.list_repo_tree("alice/model", recursive=True, expand=True)]
    assert names == [".gitattributes", "config.json", "deep", "deep/er", "deep/er/a.txt", "model.safetensors"]
    assert [item.path for item in api.list_repo_tree("alice/model", "deep")] == ["deep/er"]
    (info,) = api.get_paths_info("alice/model", ["config.json", "missing"], expand=True)
    assert (info.path, info.last_commit.oid) == ("config.json", first)
    assert [commit.title for commit in api.list_repo_commits("alice/model")] == [
        "two",
        "one",
        "initial commit",
    ]
    api.create_branch("alice/model", branch="feature/x", revision=first)
    api.create_tag("alice/model", tag="v1")
    api.create_commit("alice/model", [add("a")], commit_message="a pull request", create_pr=True)
    refs = api.list_repo_refs("alice/model", include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches}["feature/x"] == first
    assert ([ref.name for ref in refs.tags], [ref.ref for ref in refs.pull_requests]) == (
        ["v1"],
        ["refs/pr/1"],
    )
    assert api.model_info("alice/model", revision="feature/x").sha == first
    api.delete_branch("alice/model", branch="feature/x")
    api.delete_tag("alice/model", tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("alice/model", revision="feature/x")


def test_a_long_tree_comes_in_pages(hub: LoopbackHub, connect: Connect) -> None:
    hub.state.tree_page = 3
    hub.commit("alice/model", {f"{n:02}.txt": b"x" for n in range(10)})
    assert len(connect(None).list_repo_files("alice/model")) == 11


def test_headers_are_read_by_range_without_the_weights(hub: LoopbackHub, connect: Connect) -> None:
    shard = "model-0000{}-of-00002.safetensors"
    index = {"metadata": {}, "weight_map": {"a": shard.format(1), "b": shard.format(2)}}
    files = {shard.format(1): safetensors(a=300_000), shard.format(2): safetensors(b=200_000)}
    hub.commit("alice/model", files | {"model.safetensors.index.json": json.dumps(index)})
    api = connect("alice")
    found = api.get_safetensors_metadata("alice/model")
    assert found.sharded
    assert found.parameter_count == {"F32": 500_000}
    assert api.parse_safetensors_file_metadata("alice/model", shard.format(1)).parameter_count == {
        "F32": 300_000
    }
    assert set(api.get_sharded_safetensors_metadata("alice/model").weight_map) == {"a", "b"}
    assert api.model_info("alice/model").safetensors.total == 500_000
    reads = [r for r in hub.requests if r.path.endswith(".safetensors") and r.bytes_sent > 1000]
    assert {(r.range, r.status, r.bytes_sent) for r in reads} == {("bytes=0-100000", 206, 100_001)}


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=-2", 206, b"89"),
        ("bytes=7-99", 206, b"789"),
        ("bytes=10-", 416, None),
    ],
)
def test_ranges(hub: LoopbackHub, wanted: str, status: int, content: bytes | None) -> None:
    hub.commit("alice/model", {"small.txt": b"0123456789", "large.bin": b"0123456789"})
    for name in ("small.txt", "large.bin"):
        url = f"{hub.url}/alice/model/resolve/main/{name}"
        reply = httpx2.get(url, headers={"Range": wanted}, follow_redirects=True)
        assert reply.status_code == status
        assert content is None or reply.content == content


def test_lfs_files_come_from_another_origin_that_never_sees_the_token(
    hub: LoopbackHub, connect: Connect
) -> None:
    hub.commit("alice/secret", {"model.safetensors": safetensors(a=1)}, private=True)
    reply = httpx2.head(
        f"{hub.url}/alice/secret/resolve/main/model.safetensors",
        headers={"Authorization": f"Bearer {hub.token('alice')}"},
    )
    assert reply.status_code == 302
    assert reply.headers["X-Linked-Size"]
    link = reply.headers["Location"]
    assert not link.startswith(hub.url)
    assert httpx2.get(link).status_code == 200
    assert httpx2.get(link.replace("sig=", "sig=0")).status_code == 403
    connect("alice").hf_hub_download("alice/secret", "model.safetensors", cache_dir=hub.state.root / "cache")
    assert {r.user for r in hub.requests if r.path.startswith("/blobs/")} == {None}


def test_model_info_reads_card_and_config(hub: LoopbackHub, connect: Connect) -> None:
    card = "---\nlicense: mit\nlibrary_name: peft\nbase_model: acme/base\ntags: [lora]\n---\n# Hi\n"
    config = {"base_model_name_or_path": "acme/base", "task_type": "CAUSAL_LM", "r": 4}
    hub.commit("alice/adapter", {"README.md": card, "adapter_config.json": json.dumps(config)})
    api = connect(None)
    info = api.model_info("alice/adapter", files_metadata=True)
    assert (info.library_name, info.card_data.base_model) == ("peft", "acme/base")
    assert {"lora", "license:mit", "base_model:adapter:acme/base"} <= set(info.tags)
    assert info.config == {"peft": {"base_model_name_or_path": "acme/base", "task_type": "CAUSAL_LM"}}
    assert {s.rfilename: s.size for s in info.siblings}["README.md"] == len(card)
    assert [m.id for m in api.list_models(author="alice", filter="lora", search="adap")] == ["alice/adapter"]
    assert not list(api.list_models(author="acme"))


def test_datasets_and_spaces(hub: LoopbackHub, connect: Connect, tmp_path: Path) -> None:
    api = connect("alice")
    api.create_repo("alice/data", repo_type="dataset")
    api.create_repo("acme/app", repo_type="space", space_sdk="gradio")
    made = api.upload_file(
        path_or_fileobj=b"1", path_in_repo="a.csv", repo_id="alice/data", repo_type="dataset"
    )
    assert api.dataset_info("alice/data").sha == made.oid
    path = api.hf_hub_download("alice/data", "a.csv", repo_type="dataset", cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"1"
    assert api.space_info("acme/app").id == "acme/app"


# uploads


def add(name: str, content: bytes = b"content") -> CommitOperationAdd:
    return CommitOperationAdd(name, content)


def test_large_files_are_uploaded_in_parts(hub: LoopbackHub, connect: Connect, tmp_path: Path) -> None:
    hub.multipart_threshold = 100_000
    path = tmp_path / "weights.bin"
    path.write_bytes(os.urandom(250_000))
    api = connect("alice")
    api.create_repo("alice/model")
    api.upload_file(path_or_fileobj=path, path_in_repo="weights.bin", repo_id="alice/model")
    assert [r.path.rsplit("/", 1)[1] for r in hub.requests if r.path.startswith("/lfs/")] == [
        "1",
        "2",
        "3",
        "complete",
    ]
    assert hub.files("alice/model")["weights.bin"].read_bytes() == path.read_bytes()
    assert not list(hub.state.store.blobs.parts.iterdir())


def test_content_that_does_not_match_its_hash_is_refused(hub: LoopbackHub, connect: Connect) -> None:
    connect("alice").create_repo("alice/model")
    oid = hashlib.sha256(b"announced").hexdigest()
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": 9}]}
    headers = {"Authorization": f"Bearer {hub.token('alice')}"}
    url = f"{hub.url}/alice/model.git/info/lfs/objects"
    (found,) = httpx2.post(f"{url}/batch", json=batch, headers=headers).json()["objects"]
    assert httpx2.put(found["actions"]["upload"]["href"], content=b"delivered").status_code == 422
    assert httpx2.post(f"{url}/verify", json={"oid": oid, "size": 9}, headers=headers).status_code == 422
    line = json.dumps({"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": oid, "size": 9}})
    body = json.dumps({"key": "header", "value": {"summary": "s"}}) + "\n" + line
    reply = httpx2.post(f"{hub.url}/api/models/alice/model/commit/main", content=body, headers=headers)
    assert reply.status_code == 400
    assert not list(hub.state.store.blobs.incoming.iterdir())


def test_bodies_may_come_in_chunks_and_errors_leave_the_connection_usable(hub: LoopbackHub) -> None:
    hub.commit("alice/model", {"a.txt": b"a"})
    path = hub.state.signed(
        f"/lfs/{hashlib.sha256(b'xyz').hexdigest()}",
        repo=hub.state.store.find("model", "alice/model").key,
        size=3,
    )
    with httpx2.Client(base_url=hub.url) as client:
        for _ in range(2):
            assert client.put("/nowhere", content=iter([b"x" * 1000, b"y" * 1000])).status_code == 404
            assert client.put(path, content=iter([b"x", b"yz"])).status_code == 200
            assert client.put("/nowhere", content=b"x" * 100_000).status_code == 404


def test_commits_at_the_same_time_are_all_kept(hub: LoopbackHub, connect: Connect) -> None:
    hub.commit("alice/model", {"a.txt": b"a"})
    api = connect("alice")

    def one(number: int) -> int | None:
        name = f"commit {number}"
        operations = [add(f"{number}.txt"), add(f"{number}.bin")]
        return api.create_commit(
            "alice/model", operations, commit_message=name, create_pr=number % 2 == 1
        ).pr_num

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(one, range(16)))
    assert sorted(number for number in numbers if number) == list(range(1, 9))
    assert len(api.list_repo_files("alice/model")) == 2 + 16


def test_shards_can_be_sent_ahead_of_one_light_commit(
    hub: LoopbackHub, connect: Connect, tmp_path: Path
) -> None:
    api = connect("alice")
    api.create_repo("alice/model")
    shards = []
    for number in (1, 2):
        path = tmp_path / "shard.safetensors"
        path.write_bytes(safetensors(a=number))
        shards.append(CommitOperationAdd(f"model-{number}.safetensors", path))
        api.preupload_lfs_files("alice/model", [shards[-1]], create_pr=True)
        path.unlink()
    assert len(api.list_repo_files("alice/model")) == 1
    api.create_commit("alice/model", shards, commit_message="publish", create_pr=True)
    assert len(api.list_repo_files("alice/model", revision="refs/pr/1")) == 3


def test_a_race_is_412(hub: LoopbackHub, connect: Connect) -> None:
    old = hub.commit("alice/model", {"a.txt": b"1"})
    new = hub.commit("alice/model", {"a.txt": b"2"})
    api = connect("alice")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit("alice/model", [add("b")], commit_message="late", parent_commit=old)
    assert status_of(error) == 412
    api.create_commit("alice/model", [add("b")], commit_message="in time", parent_commit=new)


def test_deletions(hub: LoopbackHub, connect: Connect) -> None:
    hub.commit("alice/model", {"a.txt": b"a", "old/b.txt": b"b", "old/c.txt": b"c"})
    api = connect("alice")
    gone = [CommitOperationDelete("a.txt"), CommitOperationDelete("old/")]
    api.create_commit("alice/model", gone, commit_message="tidy")
    assert api.list_repo_files("alice/model") == [".gitattributes"]
    with pytest.raises(EntryNotFoundError):
        api.create_commit("alice/model", [CommitOperationDelete("a.txt")], commit_message="again")


def test_copies_across_repositories_move_no_bytes(hub: LoopbackHub, connect: Connect) -> None:
    weights = safetensors(a=50_000)
    hub.commit("acme/base", {"model.safetensors": weights, "config.json": b"{}"})
    hub.commit("alice/hidden", {"model.safetensors": safetensors(b=7)}, private=True)
    api = connect("bob")
    api.create_repo("bob/model")
    copies = [
        CommitOperationCopy(name, name, src_repo_id="acme/base", src_repo_type="model")
        for name in ("model.safetensors", "config.json")
    ]
    hub.clear_requests()
    api.create_commit("bob/model", copies, commit_message="copy")
    assert max(r.bytes_sent for r in hub.requests) < 2000
    assert hub.files("bob/model")["model.safetensors"].read_bytes() == weights
    hidden = CommitOperationCopy(
        "model.safetensors", "x.safetensors", src_repo_id="alice/hidden", src_repo_type="model"
    )
    with pytest.raises(RepositoryNotFoundError):
        api.create_commit("bob/model", [hidden], commit_message="steal")


def test_cards_that_the_hub_would_refuse(hub: LoopbackHub, connect: Connect) -> None:
    api = connect("alice")
    api.create_repo("alice/model")
    card = add("README.md", b"---\nbase_model: ./local/path\n---\n")
    with pytest.raises(ValueError, match="base_model"):
        api.create_commit("alice/model", [card], commit_message="card")


# Hub PRs and discussions


def test_a_hub_pr_from_commit_to_merge(hub: LoopbackHub, connect: Connect) -> None:
    hub.commit("alice/model", {"a.txt": b"one\n"})
    bob, alice = connect("bob"), connect("alice")
    opened = bob.create_commit(
        "alice/model",
        [add("a.txt", b"two\n")],
        commit_message="Better a",
        commit_description="why",
        create_pr=True,
    )
    assert (opened.pr_num, opened.pr_revision) == (1, "refs/pr/1")
    bob.create_commit("alice/model", [add("b.txt")], commit_message="And b", revision="refs/pr/1")
    hub.commit("alice/model", {"c.txt": b"meanwhile"})
    details = alice.get_discussion_details("alice/model", 1)
    assert (details.status, details.author, details.is_pull_request) == ("open", "bob", True)
    assert [event.type for event in details.events] == ["comment", "commit", "commit"]
    assert (details.events[0].content, details.conflicting_files) == ("why", [])
    assert "-one\n+two" in details.diff
    assert details.target_branch == "refs/heads/main"
    with pytest.raises(HfHubHTTPError) as error:
        bob.merge_pull_request("alice/model", 1)
    assert status_of(error) == 403
    alice.merge_pull_request("alice/model", 1, comment="thanks")
    merged = alice.get_discussion_details("alice/model", 1)
    assert (merged.status, merged.merge_commit_oid) == ("merged", alice.model_info("alice/model").sha)
    assert {"a.txt", "b.txt", "c.txt"} <= set(alice.list_repo_files("alice/model"))
    assert hub.files("alice/model")["a.txt"].read_bytes() == b"two\n"


def test_conflicting_hub_prs_cannot_be_merged(hub: LoopbackHub, connect: Connect) -> None:
    hub.commit("alice/model", {"a.txt": b"1"})
    alice = connect("alice")
    alice.create_commit(
        "alice/model", [add("a.txt", b"2")], commit_message="two", create_pr=True, revision="main"
    )
    hub.commit("alice/model", {"a.txt": b"3"})
    assert alice.get_discussion_details("alice/model", 1).conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError) as error:
        alice.merge_pull_request("alice/model", 1)
    assert status_of(error) == 409


def test_discussions_are_listed_commented_and_edited(hub: LoopbackHub, connect: Connect) -> None:
    hub.state.discussion_page = 2
    hub.commit("alice/model", {"a.txt": b"1"})
    alice, bob = connect("alice"), connect("bob")
    for number in range(5):
        bob.create_discussion("alice/model", f"Question {number}", description="hello")
    draft = bob.create_pull_request("alice/model", "A draft", description="later")
    assert (draft.num, draft.status, draft.git_reference) == (6, "draft", "refs/pr/6")
    said = bob.comment_discussion("alice/model", 1, "working …")
    edited = bob.edit_discussion_comment("alice/model", 1, said.id, "done")
    assert (edited.content, edited.edited, edited.number_of_edits) == ("done", True, 1)
    with pytest.raises(HfHubHTTPError):
        alice.edit_discussion_comment("alice/model", 1, said.id, "mine")
    assert alice.rename_discussion("alice/model", 1, "Answered").new_title == "Answered"
    assert alice.change_discussion_status("alice/model", 1, "closed", comment="ok").new_status == "closed"
    assert [d.num for d in alice.get_repo_discussions("alice/model")] == [6, 5, 4, 3, 2, 1]
    assert [d.num for d in alice.get_repo_discussions("alice/model", discussion_status="closed")] == [1]
    assert [d.num for d in alice.get_repo_discussions("alice/model", discussion_type="pull_request")] == [6]
    assert not list(alice.get_repo_discussions("alice/model", author="alice"))
    with pytest.raises(BadRequestError):
        bob.create_discussion("alice/model", "no")


# who may do what


def test_missing_private_and_gated_look_as_on_the_hub(
    hub: LoopbackHub, connect: Connect, tmp_path: Path
) -> None:
    hub.commit("alice/private", {"config.json": b"{}"}, private=True)
    hub.commit("alice/gated", {"config.json": b"{}", "model.safetensors": safetensors(a=1)}, gated=True)
    for name, status in ((None, 401), ("bob", 404)):
        for repo in ("alice/private", "alice/missing", "gpt2"):
            with pytest.raises(RepositoryNotFoundError) as missing:
                connect(name).model_info(repo)
            assert status_of(missing) == status
            assert not isinstance(missing.value, GatedRepoError)
    for name, status in ((None, 401), ("bob", 403)):
        api = connect(name)
        assert api.model_info("alice/gated").gated == "auto"
        for attempt in (
            lambda api=api: api.auth_check("alice/gated"),
            lambda api=api: download(api, tmp_path),
        ):
            with pytest.raises(GatedRepoError) as gated:
                attempt()
            assert status_of(gated) == status
    hub.grant("alice/gated", "bob")
    connect("bob").auth_check("alice/gated")
    assert download(connect("bob"), tmp_path).read_bytes() == b"{}"


def download(api: HfApi, folder: Path) -> Path:
    return Path(api.hf_hub_download("alice/gated", "config.json", cache_dir=folder))


def test_entries_revisions_and_tokens_that_do_not_exist(
    hub: LoopbackHub, connect: Connect, tmp_path: Path
) -> None:
    hub.commit("alice/model", {"config.json": b"{}"})
    api = connect("alice")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("alice/model", "nope.txt", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("alice/model", "config.json", revision="nope", cache_dir=tmp_path)
    assert not api.file_exists("alice/model", "nope.txt")
    bad = HfApi(endpoint=hub.url, token="hf_" + "x" * 34)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        bad.whoami()
    with pytest.raises(HfHubHTTPError) as error:
        bad.model_info("alice/model")
    assert status_of(error) == 401
    assert not isinstance(error.value, RepositoryNotFoundError)


def test_writing_needs_the_right_and_a_write_token(hub: LoopbackHub, connect: Connect) -> None:
    hub.commit("acme/model", {"config.json": b"{}"})
    connect("alice").auth_check("acme/model", write=True)
    assert connect("alice", "read").whoami()["auth"]["accessToken"]["role"] == "read"
    for api in (connect("bob"), connect("alice", "read")):
        for attempt in (write, api_check, create):
            with pytest.raises(HfHubHTTPError) as error:
                attempt(api)
            assert status_of(error) == 403
    with pytest.raises(RepositoryNotFoundError):
        write(connect(None))
    with pytest.raises(HfHubHTTPError, match="create_pr=1"):
        write(connect("bob"))


def write(api: HfApi) -> Any:
    return api.create_commit("acme/model", [add("x")], commit_message="write")


def api_check(api: HfApi) -> None:
    api.auth_check("acme/model", write=True)


def create(api: HfApi) -> Any:
    return api.create_repo("acme/another")


def test_settings_existing_names_and_removal(hub: LoopbackHub, connect: Connect) -> None:
    api = connect("alice")
    api.create_repo("alice/model", private=True)
    assert api.create_repo("alice/model", exist_ok=True).repo_id == "alice/model"
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("alice/model")
    assert status_of(error) == 409
    assert api.model_info("alice/model").private
    api.update_repo_settings("alice/model", private=False, gated="manual")
    info = connect(None).model_info("alice/model")
    assert (info.private, info.gated) == (False, "manual")
    api.delete_repo("alice/model")
    assert not api.repo_exists("alice/model")


def test_a_renamed_repository_redirects(hub: LoopbackHub, connect: Connect, tmp_path: Path) -> None:
    hub.commit("alice/old", {"config.json": b"{}", "model.safetensors": safetensors(a=1)})
    api = connect("alice")
    api.move_repo("alice/old", "acme/new")
    assert api.model_info("alice/old", files_metadata=True).id == "acme/new"
    for name in ("config.json", "model.safetensors"):
        assert Path(api.hf_hub_download("alice/old", name, cache_dir=tmp_path)).stat().st_size
    made = api.create_commit("alice/old", [add("x.bin")], commit_message="to the old name")
    assert made.commit_url.startswith(f"{hub.url}/acme/new/commit/")
    assert 307 in {r.status for r in hub.requests}
    hub.commit("alice/old", {"config.json": b'{"someone": "else"}'})
    assert api.model_info("alice/old").id == "alice/old", "the name can be taken again"


def test_webhooks(hub: LoopbackHub, connect: Connect) -> None:
    api = connect("alice")
    made = api.create_webhook(
        url="https://example.org/hook", watched=[{"type": "user", "name": "alice"}], secret="s"
    )
    assert [hook.id for hook in api.list_webhooks()] == [made.id]
    assert api.disable_webhook(made.id).disabled
    assert not api.enable_webhook(made.id).disabled
    assert api.update_webhook(made.id, domains=["repo"]).watched == [], "the client sends an empty list"
    with pytest.raises(HfHubHTTPError):
        connect("bob").get_webhook(made.id)
    api.delete_webhook(made.id)
    assert not api.list_webhooks()


# trouble


def test_a_busy_hub_is_asked_again(hub: LoopbackHub, connect: Connect) -> None:
    hub.commit("alice/model", {"config.json": b"{}"})
    hub.fault("/tree/main", status=503, times=2)
    assert connect("alice").list_repo_files("alice/model")
    assert [r.status for r in hub.requests] == [503, 503, 200]
    hub.fault(r"models/alice/\w+$", status=429, headers={"Retry-After": "0"})
    with pytest.raises(HfHubHTTPError) as error:
        connect("alice").model_info("alice/model")
    assert status_of(error) == 429
    hub.clear_faults()
    connect("alice").model_info("alice/model")


def test_a_silent_hub_needs_a_client_with_a_timeout(hub: LoopbackHub, connect: Connect) -> None:
    """A factory's timeout holds for most calls; `model_info` passes its own, by default none at all."""
    hub.commit("alice/model", {"config.json": b"{}"})
    hub.fault("/api/models", hang=30.0, times=2)
    set_client_factory(lambda: httpx2.Client(timeout=0.3, follow_redirects=True))
    api = connect("alice")
    try:
        with pytest.raises(httpx2.ReadTimeout):
            api.get_paths_info("alice/model", ["config.json"])
        with pytest.raises(httpx2.ReadTimeout):
            api.model_info("alice/model", timeout=0.3)
        assert api.model_info("alice/model").id == "alice/model"
    finally:
        set_client_factory(default_client_factory)
    assert [r.status for r in hub.requests] == [0, 0, 200]


def test_a_cut_download_is_resumed(
    hub: LoopbackHub, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client keeps what came in whole chunks, of 10 MiB unless told otherwise."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    weights = safetensors(a=100_000)
    hub.commit("alice/model", {"model.safetensors": weights})
    hub.fault("/blobs/", drop_after=150_000, times=1)
    path = connect("alice").hf_hub_download("alice/model", "model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == weights
    sent = [(r.range, r.bytes_sent) for r in hub.requests if r.path.startswith("/blobs/")]
    assert sent[0] == (None, 150_000)
    assert sent[1] == ("bytes=150000-", len(weights) - 150_000)


def test_a_slow_line(hub: LoopbackHub, connect: Connect, tmp_path: Path) -> None:
    hub.commit("alice/model", {"notes.txt": b"x" * 2000})
    hub.fault("notes.txt", slow=10_000)
    with httpx2.stream("GET", f"{hub.url}/alice/model/resolve/main/notes.txt") as reply:
        assert len(list(reply.iter_raw())) > 1


# life


def test_a_restart_on_the_same_root_finds_everything(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path) as first:
        token = first.add_user("alice")
        api = HfApi(endpoint=first.url, token=token)
        oid = first.commit("alice/model", {"a.txt": b"a", "m.bin": b"m"})
        api.create_commit("alice/model", [add("x.bin")], commit_message="open it", create_pr=True)
        first.commit("alice/was", {"a.txt": b"a"})
        first.rename("alice/was", "alice/is")
        port = first.port
    with LoopbackHub(tmp_path, port=port) as second:
        assert (second.port, second.add_user("alice")) == (port, token)
        api = HfApi(endpoint=second.url, token=token)
        assert api.model_info("alice/model").sha == oid
        assert (
            Path(api.hf_hub_download("alice/model", "m.bin", cache_dir=tmp_path / "c")).read_bytes() == b"m"
        )
        assert api.get_discussion_details("alice/model", 1).title == "open it"
        assert api.model_info("alice/was").id == "alice/is"
        api.merge_pull_request("alice/model", 1)
    close_session()


def test_pages_are_escaped(hub: LoopbackHub, connect: Connect) -> None:
    hub.commit("alice/model", {"README.md": b"<script>alert(1)</script>"})
    connect("bob").create_discussion("alice/model", "<b>bold</b>", description="<img src=x>")
    for path in ("", "/alice/model", "/alice/model/discussions/1"):
        reply = httpx2.get(hub.url + path)
        assert reply.status_code == 200
        assert "text/html" in reply.headers["Content-Type"]
        assert not any(tag in reply.text for tag in ("<script", "<b>", "<img"))


def test_the_server_alone_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.hub",
        "--root",
        str(tmp_path),
        "--user",
        "alice:acme",
        "--user",
        "bob",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as server:
        assert server.stdout is not None
        url, token, _ = (server.stdout.readline().strip() for _ in range(3))
        try:
            who = HfApi(endpoint=url, token=token).whoami()
        finally:
            server.send_signal(signal.SIGTERM)
        assert (who["name"], [org["name"] for org in who["orgs"]]) == ("alice", ["acme"])
    assert server.returncode == 0
    close_session()


LOAD = """
import sys
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=16)
made = LlamaForCausalLM(config)
made.push_to_hub("alice/tiny")
found = AutoModelForCausalLM.from_pretrained("alice/tiny")
assert all((a == b).all() for a, b in zip(made.parameters(), found.parameters(), strict=True))
print("same")
"""


@pytest.mark.slow
def test_transformers_pushes_and_loads_by_id(hub: LoopbackHub, tmp_path: Path) -> None:
    environment = (
        os.environ | hub.environment("alice") | {"HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    )
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "same", done.stderr[-3000:]
    assert {r.user for r in hub.requests if r.path.startswith("/api/models")} == {"alice"}
