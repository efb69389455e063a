"""Publishing to the Hub with the real client: never twice, never over what is not ours, never wider than the base."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, get_session

from bot.clients import http
from bot.clients import hub_publisher as hub_publisher_module
from bot.clients.hub_publisher import HubPublisher
from bot.errors import AccessError, HostError, InputError, InternalError, RefusedError
from bot.progress import Silent
from bot.publish.marker import find_marker, marker
from bot.request import Destination
from tests.clients.hub_fixtures import hub
from tests.publish.samples import ADAPTER, BASE, KEY, a_plan

__all__ = ["hub"]
REPOSITORY = Destination(kind="repository", location="alice/cat-7b")
PR = Destination(kind="hub_pr", location="alice/cat-lora")
ADAPTER_FILES = {
    "adapter_config.json": "{}",
    "adapter_model.safetensors": b"lora",
    "README.md": "# my adapter",
}
INDEX = "model.safetensors.index.json"


class Told(Silent):
    def __init__(self):
        self.lines, self.total, self.done = [], 0, 0

    def begin(self, what, *, total):
        self.total = total

    def advance(self, count):
        self.done += count

    def say(self, line):
        self.lines.append(line)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


@pytest.fixture
def folder(tmp_path):
    return merged(tmp_path / "merged")


def merged(
    folder: Path,
    *,
    key: str = KEY,
    shards=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
):
    folder.mkdir()
    for name in shards:
        (folder / name).write_bytes(f"{key} {name} ".encode() * 100)
    if len(shards) > 1:
        (folder / INDEX).write_text(json.dumps({"weight_map": {name: name for name in shards}}))
    (folder / "config.json").write_text("{}")
    (folder / "adapter_config.original.json").write_text("{}")
    (folder / ".DS_Store").write_text("litter")
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n{marker(key)}\n# Merged\n")
    return folder


def publisher(hub, user="alice"):
    return HubPublisher(hub.url, token=hub.token(user), attempts=3, read_marker=find_marker)


def publish(hub, folder, destination=REPOSITORY, *, plan=None, user="alice", progress=None, **more):
    plan = plan or a_plan()
    who = more.pop("publisher", None) or publisher(hub, user)
    body = f"{marker(plan.key)}\nMerged."
    return who.publish(
        folder,
        destination,
        plan=plan,
        message=f"Merge the adapter\n\n{body}",
        progress=progress or Silent(),
        **more,
    )


def api(hub, user="alice"):
    return HfApi(endpoint=hub.url, token=hub.token(user))


def sent(hub, method, part):
    return [record for record in hub.requests if record.method == method and part in record.path]


def prs(hub, repo_id="alice/cat-lora"):
    return list(api(hub).get_repo_discussions(repo_id, discussion_type="pull_request"))


def stopped(kind, call):
    with pytest.raises(kind) as stop:
        call()
    return stop.value


def test_a_new_repository_is_private_and_complete(hub, folder):
    progress = Told()
    done = publish(hub, folder, progress=progress)
    info = api(hub).model_info("alice/cat-7b")
    assert (done.url, done.commit, done.number, done.existed) == (
        f"{hub.url}/alice/cat-7b",
        info.sha,
        None,
        False,
    )
    assert info.private is True
    names = {path.name for path in folder.iterdir()} - {".DS_Store"}
    assert set(hub.files("alice/cat-7b")) == names | {".gitattributes"}
    shard = "model-00001-of-00002.safetensors"
    assert hub.files("alice/cat-7b")[shard].read_bytes() == (folder / shard).read_bytes()
    assert len(sent(hub, "POST", "/commit/")) == 1
    assert progress.done == progress.total == sum((folder / name).stat().st_size for name in names)


def test_public_only_when_asked(hub, folder):
    publish(hub, folder, replace(REPOSITORY, public=True))
    assert api(hub).model_info("alice/cat-7b").private is False


def test_the_second_run_finds_the_first(hub, folder):
    first = publish(hub, folder)
    hub.clear_requests()
    second = publish(hub, folder)
    assert second == replace(first, existed=True, checks=())
    assert publisher(hub).find(REPOSITORY, key=KEY) == second
    assert {record.method for record in hub.requests} == {"GET"}
    assert publisher(hub).find(REPOSITORY, key="another") is None
    assert publisher(hub).find(replace(REPOSITORY, location="alice/none"), key=KEY) is None


def test_a_result_without_all_its_weights_is_not_found(hub, folder):
    publish(hub, folder)
    hub.commit("alice/cat-7b", {"model-00002-of-00002.safetensors": None})
    assert publisher(hub).find(REPOSITORY, key=KEY) is None
    assert publish(hub, folder).existed is False
    assert "model-00002-of-00002.safetensors" in hub.files("alice/cat-7b")


def test_an_older_result_is_replaced_and_its_stale_shards_go(hub, folder, tmp_path):
    publish(hub, folder)
    hub.commit("alice/cat-7b", {"notes.txt": "the owner's own", "other.safetensors": b"theirs"})
    newer = merged(tmp_path / "newer", key="newer", shards=("model.safetensors",))
    publish(hub, newer, plan=a_plan(key="newer"))
    names = set(hub.files("alice/cat-7b"))
    assert {"model.safetensors", "notes.txt", "other.safetensors"} <= names
    assert not {INDEX, "model-00001-of-00002.safetensors"} & names


def test_a_repository_of_others_is_refused(hub, folder):
    hub.commit("alice/cat-7b", {"pytorch_model.bin": b"precious"})
    error = stopped(RefusedError, lambda: publish(hub, folder))
    assert error.code == "destination-exists"
    assert "--pr" in error.advice
    assert len(hub.files("alice/cat-7b")) == 2


def test_a_placeholder_is_used_and_a_public_one_is_told(hub, folder):
    hub.commit("alice/cat-7b", {"README.md": "soon"})
    progress = Told()
    assert publish(hub, folder, progress=progress).existed is False
    assert any("public" in line for line in progress.lines)


def test_the_adapters_own_repository_wants_a_pr(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    error = stopped(RefusedError, lambda: publish(hub, folder, replace(PR, kind="repository")))
    assert (error.code, "--pr" in error.advice) == ("destination-exists", True)
    hub.rename("alice/cat-lora", "alice/tiger-lora")
    moved = a_plan(adapter=replace(ADAPTER, location="alice/tiger-lora"))
    error = stopped(RefusedError, lambda: publish(hub, folder, replace(PR, kind="repository"), plan=moved))
    assert error.code == "destination-exists"


def test_a_pr_into_the_adapters_own_repository_deletes_its_files(hub, folder):
    head = hub.commit(
        "alice/cat-lora",
        ADAPTER_FILES | {"training_args.bin": b"t", "checkpoint-1/adapter_config.json": "{}"},
    )
    done = publish(hub, folder, PR, user="bob")
    assert (done.number, done.url) == (1, f"{hub.url}/alice/cat-lora/discussions/1")
    names = set(hub.files("alice/cat-lora", revision="refs/pr/1"))
    assert not {"adapter_config.json", "adapter_model.safetensors"} & names
    assert {
        "training_args.bin",
        "checkpoint-1/adapter_config.json",
        "adapter_config.original.json",
        INDEX,
    } <= names
    details = api(hub).get_discussion_details("alice/cat-lora", 1)
    assert (details.title, details.status, details.author) == ("Merge the adapter", "open", "bob")
    assert find_marker(details.events[0].content) == KEY
    assert api(hub).model_info("alice/cat-lora").sha == head
    assert len(sent(hub, "POST", "/commit/")) == 1


def test_the_second_pr_is_the_first_also_behind_many_others(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    first = publish(hub, folder, PR)
    for number in range(12):
        api(hub, "bob").create_discussion(
            "alice/cat-lora", f"Other {number}", pull_request=True, description="hi"
        )
    assert publish(hub, folder, PR) == replace(first, existed=True, checks=())
    assert len(prs(hub)) == 13


def test_a_strangers_pr_with_our_marker_is_not_ours(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    planted = api(hub, "bob").create_discussion(
        "alice/cat-lora", "Merge the adapter", pull_request=True, description=f"{marker(KEY)}\nMerged."
    )
    assert publisher(hub).find(PR, key=KEY) is None
    nobody = HubPublisher(hub.url, token=None, attempts=1, read_marker=find_marker)
    assert nobody.find(PR, key=KEY) is None
    ours = publish(hub, folder, PR)
    assert (ours.existed, ours.number != planted.num) == (False, True)
    assert publish(hub, folder, PR) == replace(ours, existed=True, checks=())


def test_who_the_token_belongs_to_is_asked_once_and_only_for_hub_prs(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    one = publisher(hub)
    publish(hub, folder, publisher=one)
    assert not sent(hub, "GET", "/api/whoami-v2")
    assert one.find(PR, key=KEY) is None
    publish(hub, folder, PR, publisher=one)
    assert one.find(PR, key=KEY).existed is True
    assert len(sent(hub, "GET", "/api/whoami-v2")) == 1


def test_a_hub_pr_on_a_public_repository_says_nothing_about_being_public(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    progress = Told()
    publish(hub, folder, PR, progress=progress)
    assert progress.lines == []


def test_a_marker_that_is_only_quoted_later_does_not_count(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    made = api(hub, "bob").create_discussion("alice/cat-lora", "Mine", pull_request=True, description="hi")
    api(hub, "bob").comment_discussion("alice/cat-lora", made.num, marker(KEY))
    assert publisher(hub).find(PR, key=KEY) is None


def test_a_merged_pr_counts_and_a_closed_one_does_not(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    publish(hub, folder, PR)
    api(hub).change_discussion_status("alice/cat-lora", 1, "closed")
    second = publish(hub, folder, PR)
    assert (second.number, second.existed) == (2, False)
    api(hub).merge_pull_request("alice/cat-lora", 2)
    third = publish(hub, folder, PR)
    assert (third.number, third.existed, third.url) == (None, True, f"{hub.url}/alice/cat-lora")


def test_a_gitignore_does_not_swallow_the_weights(hub, folder, monkeypatch):
    """The loopback Hub ignores nothing, so a Hub that does is put before it: it obeys a `gitIgnore` that is sent."""
    hub.commit("alice/cat-lora", ADAPTER_FILES | {".gitignore": "*.safetensors\n"})
    real = httpx2.Client.request

    def obeying(self, method, url, **more):
        answer = real(self, method, url, **more)
        if "/preupload/" in str(url) and not more["json"].get("gitIgnore"):
            files = [{**file, "shouldIgnore": True} for file in answer.json()["files"]]
            return httpx2.Response(200, json={"files": files}, request=answer.request)
        return answer

    monkeypatch.setattr(httpx2.Client, "request", obeying)
    publish(hub, folder, PR)
    assert "model-00001-of-00002.safetensors" in hub.files("alice/cat-lora", revision="refs/pr/1")


@pytest.mark.parametrize("files", [{"model.safetensors": b"theirs"}, {"adapter_config.json": "{}"}])
def test_a_pr_beside_files_that_would_be_loaded_too_is_refused(hub, folder, files):
    hub.commit("acme/other", files)
    error = stopped(RefusedError, lambda: publish(hub, folder, replace(PR, location="acme/other")))
    assert error.code == "destination-exists"
    assert prs(hub, "acme/other") == []


def test_a_pr_on_nothing(hub, folder):
    assert stopped(InputError, lambda: publish(hub, folder, PR)).code == "not-found"


@pytest.mark.parametrize("kind", [{"private": True}, {"gated": True}])
@pytest.mark.parametrize("which", ["base", "adapter"])
def test_a_merge_of_something_closed_is_never_public(hub, folder, kind, which):
    plan = a_plan(**{which: replace(BASE if which == "base" else ADAPTER, **kind)})
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    hub.commit("alice/open", {"README.md": "soon"})
    for destination in (replace(REPOSITORY, public=True), replace(REPOSITORY, location="alice/open"), PR):
        error = stopped(RefusedError, lambda to=destination: publish(hub, folder, to, plan=plan))
        assert error.code == "wider-than-base"
    assert not sent(hub, "POST", "/api/repos/create")
    assert not sent(hub, "POST", "/preupload/")
    assert publish(hub, folder, plan=plan).existed is False
    hub.commit("alice/cat-lora", {"x.txt": ""}, private=True)
    assert publish(hub, folder, PR, plan=plan).number == 1


def test_a_commit_whose_answer_is_lost_is_found(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    for destination in (PR, REPOSITORY):
        hub.clear_requests()
        hub.fault("/commit/", drop_after=5, times=1)
        done = publish(hub, folder, destination)
        assert done.existed is True
        assert len(sent(hub, "POST", "/commit/")) == 1
    assert len(prs(hub)) == 1


def test_a_commit_that_was_declined_is_sent_again(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    hub.fault("/commit/", status=503, times=2)
    assert publish(hub, folder, PR).existed is False
    assert len(prs(hub)) == 1


def test_a_pr_that_the_hub_may_still_be_making_is_not_sent_again(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    hub.fault("/commit/", status=504)
    assert stopped(HostError, lambda: publish(hub, folder, PR)).code == "hub-down"
    assert len(sent(hub, "POST", "/commit/")) == 1
    hub.clear_faults()
    publish(hub, folder, PR)
    assert len(prs(hub)) == 1


def test_silence_ends(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES)
    http.configure(0.4)
    hub.fault("/commit/", hang=20, times=1)
    assert stopped(HostError, lambda: publish(hub, folder, PR)).code == "hub-timeout"
    assert prs(hub) == []


def race(hub, monkeypatch, act):
    """`act` happens after the upload and before the commit."""
    real = hub_publisher_module.hub_upload.upload

    def upload(*args, **more):
        real(*args, **more)
        monkeypatch.setattr(hub_publisher_module.hub_upload, "upload", real)
        act()

    monkeypatch.setattr(hub_publisher_module.hub_upload, "upload", upload)


def test_a_repository_that_changes_meanwhile_is_left_alone(hub, folder, monkeypatch):
    hub.commit("alice/cat-7b", {"README.md": "soon"})
    race(hub, monkeypatch, lambda: hub.commit("alice/cat-7b", {"model.safetensors": b"theirs"}))
    assert stopped(HostError, lambda: publish(hub, folder)).code == "changed-meanwhile"
    assert set(hub.files("alice/cat-7b")) == {".gitattributes", "README.md", "model.safetensors"}


def test_the_slower_of_two_runs_finds_the_faster(hub, folder, monkeypatch):
    race(hub, monkeypatch, lambda: publish(hub, folder))
    assert publish(hub, folder).existed is True
    assert len(list(api(hub).list_repo_commits("alice/cat-7b"))) == 2


def test_an_upload_that_fails_takes_the_new_repository_back(hub, folder):
    hub.fault("/preupload/", status=400)
    stopped(HostError, lambda: publish(hub, folder))
    assert not api(hub).repo_exists("alice/cat-7b")
    hub.commit("alice/cat-7b", {"README.md": "soon"})
    stopped(HostError, lambda: publish(hub, folder))
    assert api(hub).repo_exists("alice/cat-7b")


def test_ctrl_c_takes_the_new_repository_back_unless_somebody_used_it(hub, folder, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    race(hub, monkeypatch, interrupt)
    stopped(KeyboardInterrupt, lambda: publish(hub, folder))
    assert not api(hub).repo_exists("alice/cat-7b")

    def used():
        hub.commit("alice/cat-7b", {"x.txt": "mine"})
        raise KeyboardInterrupt

    race(hub, monkeypatch, used)
    stopped(KeyboardInterrupt, lambda: publish(hub, folder))
    assert "x.txt" in hub.files("alice/cat-7b")


def test_a_shard_that_fails_once_is_uploaded_again(hub, folder):
    hub.fault("/info/lfs/objects/batch", status=503, times=1)
    assert publish(hub, folder).existed is False


def digests(folder):
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != ".DS_Store"
    }


def test_what_the_hub_stored_is_compared_with_what_was_checked(hub, folder, monkeypatch):
    [check] = publish(hub, folder, checked=digests(folder)).checks
    assert (check.name, check.verdict, check.figure[:7]) == ("stored", "passed", "6 files")
    for number, name in enumerate(("model-00002-of-00002.safetensors", "config.json")):
        place = replace(REPOSITORY, location=f"alice/checked-{number}")
        [check] = publish(hub, folder, place, checked=digests(folder) | {name: "0" * 64}).checks
        assert (check.verdict, check.detail) == ("failed", f"{name} is not there as it was checked.")
    hub.fault("/tree/", status=500)
    [check] = publish(hub, folder, replace(REPOSITORY, location="alice/unlisted")).checks
    assert check.verdict == "skipped"


def test_texts_replace_files_and_named_files_are_deleted(hub, folder):
    hub.commit("alice/cat-lora", ADAPTER_FILES | {"stale.txt": "x"})
    texts = {"README.md": f"{marker(KEY)} for the Hub", "merge_plan.json": "{}"}
    publish(hub, folder, PR, texts=texts, delete=("stale.txt", "not-there.txt"))
    files = hub.files("alice/cat-lora", revision="refs/pr/1")
    assert files["README.md"].read_text() == texts["README.md"]
    assert "merge_plan.json" in files
    assert "stale.txt" not in files


def test_without_a_marker_or_with_an_adapter_nothing_is_sent(hub, folder):
    assert (
        stopped(InternalError, lambda: publish(hub, folder, texts={"README.md": "#"})).code
        == "marker-missing"
    )
    (folder / "adapter_model.safetensors").write_bytes(b"lora")
    assert stopped(InternalError, lambda: publish(hub, folder)).code == "adapter-in-result"
    assert hub.requests == ()


def test_tokens_that_are_missing_or_too_weak(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token("alice"))  # the machine's own token is never borrowed
    nobody = HubPublisher(hub.url, token=None, attempts=1, read_marker=find_marker)
    error = stopped(AccessError, lambda: publish(hub, folder, publisher=nobody))
    assert error.code in {"no-access", "no-token"}
    weak = HubPublisher(hub.url, token=hub.token("alice", role="read"), attempts=1, read_marker=find_marker)
    assert stopped(AccessError, lambda: publish(hub, folder, publisher=weak)).code == "forbidden"
    assert stopped(AccessError, lambda: publish(hub, folder, user="bob")).code == "forbidden"
    assert not api(hub).repo_exists("alice/cat-7b")


def test_a_name_that_is_taken_by_what_the_token_cannot_see(hub, folder):
    hub.commit("acme/cat-7b", {"x": "y"}, private=True)
    error = stopped(
        (AccessError, HostError),
        lambda: publish(hub, folder, replace(REPOSITORY, location="acme/cat-7b"), user="bob"),
    )
    assert error.code in {"forbidden", "conflict"}


def test_the_token_never_shows(hub, folder):
    token = hub.token("alice")
    assert token not in repr(publisher(hub))
    hub.fault("/api/repos/create", status=403)
    error = stopped(AccessError, lambda: publish(hub, folder))
    assert token not in f"{error.sentence}{error.advice}{error.__cause__}"
    assert get_session() is not None


def test_the_digest_of_the_stored_weights_is_that_of_ours(hub, folder):
    done = publish(hub, folder)
    name = "model-00002-of-00002.safetensors"
    [stored] = api(hub).get_paths_info("alice/cat-7b", [name], revision=done.commit)
    assert stored.lfs.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
