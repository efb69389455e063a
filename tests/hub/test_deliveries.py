"""The loopback Hub's webhooks and listings against the real client: what goes out when something happens."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, close_session

from tests.hub.deliveries import user_id
from tests.hub.server import LoopbackHub

Got = list[tuple[dict[str, str], dict[str, Any]]]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as running:
        running.add_user("alice", orgs=("acme",))
        running.add_user("bob")
        yield running
    close_session()


@pytest.fixture
def receiver() -> Iterator[tuple[str, Got]]:
    """An address that takes everything, and what came: headers and payload."""
    got: Got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((dict(self.headers), json.loads(body)))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
        server.shutdown()


@pytest.fixture
def watched(hub: LoopbackHub, receiver: tuple[str, Got]) -> HfApi:
    """Alice, who has a webhook on her own namespace."""
    api = HfApi(endpoint=hub.url, token=hub.token("alice"))
    api.create_webhook(url=receiver[0], watched=[{"type": "user", "name": "alice"}], secret="s3cret")
    return api


def told(hub: LoopbackHub) -> list[tuple[str, str]]:
    return [(d.payload["event"]["scope"], d.payload["event"]["action"]) for d in hub.deliveries]


def add(name: str) -> CommitOperationAdd:
    return CommitOperationAdd(name, b"content")


def test_a_commit_tells_of_main(hub, watched, receiver) -> None:
    before = hub.commit("alice/model", {"a": b"a"})
    made = watched.create_commit("alice/model", [add("b.txt")], commit_message="More")
    assert told(hub) == [("repo.content", "update")] * 2
    headers, payload = receiver[1][-1]
    assert headers["X-Webhook-Secret"] == "s3cret"
    assert payload["updatedRefs"] == [{"ref": "refs/heads/main", "oldSha": before, "newSha": made.oid}]
    assert (payload["repo"]["name"], payload["repo"]["headSha"]) == ("alice/model", made.oid)
    assert payload["webhook"]["version"] == 3
    assert hub.deliveries[-1].status == 202


def test_a_hub_pr_tells_of_its_ref_and_of_the_discussion(hub, watched, receiver) -> None:
    hub.commit("alice/model", {"a": b"a"})
    bob = HfApi(endpoint=hub.url, token=hub.token("bob"))
    made = bob.create_commit(
        "alice/model", [add("b.txt")], commit_message="Mine", commit_description="Please", create_pr=True
    )
    more = bob.create_commit("alice/model", [add("c.txt")], commit_message="More", revision="refs/pr/1")
    assert told(hub)[1:] == [("repo.content", "update"), ("discussion", "create"), ("repo.content", "update")]
    _, opened, discussed, later = [payload for _, payload in receiver[1]]
    assert opened["updatedRefs"] == [{"ref": "refs/pr/1", "oldSha": None, "newSha": made.oid}]
    assert later["updatedRefs"] == [{"ref": "refs/pr/1", "oldSha": made.oid, "newSha": more.oid}]
    assert discussed["comment"]["content"] == "Please"
    assert discussed["discussion"]["isPullRequest"]
    assert "headSha" not in discussed["repo"]


def test_comments_tell_who_wrote_them_by_id_alone(hub, watched, receiver) -> None:
    hub.commit("alice/model", {"a": b"a"})
    bob = HfApi(endpoint=hub.url, token=hub.token("bob"))
    bob.create_discussion("alice/model", "Hello", description="Text")
    said = bob.comment_discussion("alice/model", 1, "/merge")
    bob.edit_discussion_comment("alice/model", 1, said.id, "/merge plan")
    bob.hide_discussion_comment("alice/model", 1, said.id)
    watched.change_discussion_status("alice/model", 1, "closed")
    assert told(hub)[1:] == [
        ("discussion", "create"), ("discussion.comment", "create"), ("discussion.comment", "update"),
        ("discussion.comment", "update"), ("discussion", "update"),
    ]  # fmt: skip
    hub_comment = receiver[1][2][1]["comment"]
    assert hub_comment["author"] == {"id": user_id("bob")} == {"id": bob.whoami()["id"]}
    assert (hub_comment["id"], hub_comment["content"]) == (said.id, "/merge")
    assert receiver[1][4][1]["comment"]["hidden"]
    assert "content" not in receiver[1][4][1]["comment"]
    with pytest.raises(KeyError):  # the client cannot read a comment without its text
        bob.get_discussion_details("alice/model", 1)


def test_repositories_come_go_and_move(hub, watched, receiver) -> None:
    watched.create_repo("alice/model")
    watched.update_repo_settings("alice/model", private=True)
    watched.move_repo("alice/model", "alice/other")
    watched.delete_repo("alice/other")
    assert told(hub) == [("repo", "create"), ("repo.config", "update"), ("repo", "move"), ("repo", "delete")]
    moved = receiver[1][2][1]
    assert (moved["repo"]["name"], moved["movedTo"]["name"]) == ("alice/model", "alice/other")
    assert receiver[1][1][1]["updatedConfig"] == {"private": True}


def test_who_does_not_watch_is_told_nothing(hub, watched) -> None:
    hub.commit("bob/model", {"a": b"a"})
    hub.commit("alice/model", {"a": b"a"})
    hook = watched.list_webhooks()[0].id
    watched.disable_webhook(hook)
    hub.commit("alice/model", {"b": b"b"})
    assert [d.payload["repo"]["name"] for d in hub.deliveries] == ["alice/model"]
    assert watched.update_webhook(hook, domains=["repo"]).watched == [], "the client sends an empty list"
    watched.enable_webhook(hook)
    hub.commit("alice/model", {"c": b"c"})
    assert len(hub.deliveries) == 1


def test_somebody_elses_private_repository_is_not_told_of(hub, receiver) -> None:
    bob = HfApi(endpoint=hub.url, token=hub.token("bob"))
    bob.create_webhook(url=receiver[0], watched=[{"type": "org", "name": "acme"}])
    hub.commit("acme/open", {"a": b"a"})
    hub.commit("acme/closed", {"a": b"a"}, private=True)
    assert [d.payload["repo"]["name"] for d in hub.deliveries] == ["acme/open"]
    assert "X-Webhook-Secret" not in receiver[1][0][0]


def test_an_address_where_nobody_is_counts_as_no_answer(hub) -> None:
    api = HfApi(endpoint=hub.url, token=hub.token("alice"))
    api.create_webhook(url="http://127.0.0.1:9/", watched=[{"type": "model", "name": "alice/model"}])
    hub.commit("alice/model", {"a": b"a"})
    assert [d.status for d in hub.deliveries] == [0]


def test_lists_of_models_come_in_pages_and_say_when_nothing_changed(hub) -> None:
    hub.state.list_page = 2
    for number in range(5):
        hub.commit(f"alice/m{number}", {"adapter_config.json": b"{}"})
    hub.commit("bob/other", {"a": b"a"})
    api = HfApi(endpoint=hub.url, token=hub.token("alice"))
    found = list(api.list_models(author="alice", sort="last_modified", full=True))
    assert [one.id for one in found] == [f"alice/m{number}" for number in (4, 3, 2, 1, 0)]
    assert [s.rfilename for s in found[0].siblings] == [".gitattributes", "adapter_config.json"]
    assert [one.id for one in api.list_models(author="alice", limit=3)] == [
        "alice/m4",
        "alice/m3",
        "alice/m2",
    ]
    hub.commit("alice/m1", {"b": b"b"})
    assert next(iter(api.list_models(sort="last_modified"))).id == "alice/m1"
    assert next(iter(api.list_models(sort="created_at", author="alice"))).id == "alice/m4"
    url = f"{hub.url}/api/models?author=alice"
    tag = httpx2.get(url).headers["ETag"]
    assert httpx2.get(url, headers={"If-None-Match": tag}).status_code == 304
    hub.commit("alice/m2", {"b": b"b"})
    assert httpx2.get(url, headers={"If-None-Match": tag}).status_code == 200
