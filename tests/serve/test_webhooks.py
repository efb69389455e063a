"""Deliveries over real HTTP to the real process: what is kept, what is not, and what is answered."""

import json
import sqlite3
from itertools import count

import httpx2
import pytest

from tests.serve.process import SECRET, commented, pushed, serving, signed

COMMITS = (f"{n:040x}" for n in count(1))
NUMBERS = count(1000)


def kept(server):
    with sqlite3.connect(server.database) as connection:
        return connection.execute(
            "SELECT source, event, body FROM merge_bot_inbox ORDER BY number"
        ).fetchall()


def test_a_push_is_on_the_disk_when_it_is_answered_and_once_however_often_it_comes(server, client):
    before, payload = kept(server), pushed(commit=next(COMMITS))
    answers = [client.post("/webhooks/hub", json=payload) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    new = kept(server)[len(before) :]
    assert [(source, event) for source, event, _ in new] == [("hub", "repo.content.update")]
    assert json.loads(new[0][2]) == payload


def test_a_command_on_github_is_kept_with_its_installation(server, client):
    before, payload = kept(server), commented(number=next(NUMBERS))
    answer = client.post("/webhooks/github", **signed(payload))
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    assert [json.loads(row[2])["installation"]["id"] for row in kept(server)[len(before) :]] == [5]


def test_what_was_overheard_and_is_sent_again_under_another_id_counts_once(server, client):
    before, heard = kept(server), signed(commented(number=next(NUMBERS)))
    assert client.post("/webhooks/github", **heard).status_code == 202
    heard["headers"]["X-GitHub-Delivery"] = "another"
    assert client.post("/webhooks/github", **heard).status_code == 202
    assert len(kept(server)) == len(before) + 1


@pytest.mark.parametrize(
    "payload",
    [
        pushed(updatedRefs=[{"ref": "refs/pr/1", "oldSha": None, "newSha": "b" * 40}]),
        pushed(repo={"type": "dataset", "name": "acme/data", "headSha": "c" * 40}),
        pushed(event={"action": "delete", "scope": "repo"}),
        [], 1, None, {"event": 3},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_on_the_hub_is_not_kept(server, client, payload):
    before = kept(server)
    headers = {"Content-Type": "application/json"}
    answer = client.post("/webhooks/hub", content=json.dumps(payload), headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (200, "ignored")
    assert kept(server) == before


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("ping", {"zen": "Keep it logically awesome."}),
        ("issue_comment", commented("Looks good to me")),
        ("issue_comment", commented(action="edited")),
        ("push", {"ref": "refs/heads/main"}),
        ("installation", {"action": "created"}),
        ("issue_comment", []),
    ],
)
def test_what_asks_for_nothing_on_github_is_not_kept(server, client, event, payload):
    before = kept(server)
    answer = client.post("/webhooks/github", **signed(payload, event=event))
    assert (answer.status_code, answer.json()["status"]) == (200, "ignored")
    assert kept(server) == before


@pytest.mark.parametrize("host", ["hub", "github"])
def test_who_tries_the_address_in_a_browser_hears_what_it_is_for(client, host):
    answer = client.get(f"/webhooks/{host}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"]["sentence"] == "Webhooks come here, as POST."


@pytest.mark.parametrize("secret", ["", "wrong", SECRET + "x", SECRET[:-1], "gehe\u00efm"])
def test_a_wrong_secret_opens_nothing(server, secret):
    before = kept(server)
    headers = {b"x-webhook-secret": secret.encode()}
    answer = httpx2.post(f"{server.url}/webhooks/hub", json=pushed(commit=next(COMMITS)), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad-secret")
    assert kept(server) == before


def test_a_wrong_signature_opens_nothing(server, client):
    before, good = kept(server), signed(commented())
    for signature in (
        "",
        "sha256=",
        "sha256=" + "0" * 64,
        good["headers"]["X-Hub-Signature-256"][7:],
        "sha1=0",
    ):
        sent = good | {"headers": good["headers"] | {"X-Hub-Signature-256": signature}}
        answer = client.post("/webhooks/github", **sent)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad-signature")
    assert client.post("/webhooks/github", **(good | {"content": good["content"] + b" "})).status_code == 401
    assert kept(server) == before


def test_without_a_secret_both_doors_are_closed(tmp_path):
    none = {"MERGE_BOT_HUB__WEBHOOK_SECRET": "", "MERGE_BOT_GITHUB__WEBHOOK_SECRET": ""}
    with serving(tmp_path, "--no-worker", **none) as server:
        empty = {"x-webhook-secret": "", "Content-Type": "application/json"}
        answer = httpx2.post(f"{server.url}/webhooks/hub", content=b"{}", headers=empty)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "webhook-closed")
        answer = httpx2.post(f"{server.url}/webhooks/github", **signed(commented(), secret=""))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "webhook-closed")
        assert kept(server) == []


@pytest.mark.parametrize(
    ("status", "code", "sent"),
    [
        (415, "not-json", {"headers": {"Content-Type": "application/x-www-form-urlencoded"}}),
        (415, "not-json", {"headers": {"Content-Encoding": "gzip"}}),
        (400, "not-json", {"content": b"{"}),
        (400, "not-json", {"content": b"\xff\xfe{}"}),
        (400, "not-json", {"content": b"[" * 100_000}),
        (400, "no-event", {"headers": {"X-GitHub-Event": "../x"}}),
        (400, "no-event", {"headers": {"X-GitHub-Delivery": ""}}),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(client, status, code, sent):
    good = signed(sent.get("content", commented()))
    answer = client.post(
        "/webhooks/github", **(good | {"headers": good["headers"] | sent.get("headers", {})})
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert {"sentence", "advice"} < set(answer.json()["error"])


def test_fifty_megabytes_are_refused_and_not_held(server):
    def chunks():
        for _ in range(50):
            yield b"x" * 2**20

    headers = {"X-Webhook-Secret": SECRET, "Content-Type": "application/json"}
    before = server.rss()
    for path in ("/webhooks/hub", "/webhooks/github"):
        said = httpx2.post(server.url + path, content=b"x" * 50 * 2**20, headers=headers, timeout=30)
        told = httpx2.post(server.url + path, content=chunks(), headers=headers, timeout=30)
        for answer in (said, told):
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body-too-large")
    assert server.rss() - before < 20


def test_an_answer_tells_nothing_about_what_is_behind_it(client):
    for answer in (
        client.get("/"),
        client.get("/docs"),
        client.get("/openapi.json"),
        client.get("/webhooks/hub"),
    ):
        assert answer.status_code in {401, 404, 405}  # the pages ask who it is first
        assert "server" not in answer.headers
        assert answer.headers["x-request-id"]
        assert "Traceback" not in answer.text
