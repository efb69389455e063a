"""`merge-bot webhook`, with the real client against the loopback Hub and an address that looks at secrets."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bot import cli
from tests.clients.hub_fixtures import hub

__all__ = ["hub"]
SECRET = "s3cret-of-this-test"
URL = "https://bot.example.org"
TOML = """
[server]
public_url = "https://bot.example.org"
[[watch]]
owners = ["alice", "acme"]
[[watch]]
repositories = ["bob/*", "carol/one", "!bob/two"]
[[watch]]
owners = ["dora"]
enabled = false
"""


@pytest.fixture
def say(hub, tmp_path, monkeypatch, capsys):
    """Runs the command as alice; what it says, and its exit code."""
    monkeypatch.chdir(tmp_path)
    for name, value in {**hub.environment("alice"), "MERGE_BOT_HUB__WEBHOOK_SECRET": SECRET}.items():
        monkeypatch.setenv(name, value)

    def say(*words, code=0):
        ended = cli.main(["webhook", *words])
        said = capsys.readouterr()
        assert ended == code, said.err
        assert SECRET not in said.out + said.err
        return said.out + said.err

    return say


@pytest.fixture
def door():
    """An address that takes the secret alone, and what it got; `lax` takes anything."""
    got, lax = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            secret, body = (
                self.headers["X-Webhook-Secret"],
                self.rfile.read(int(self.headers["Content-Length"])),
            )
            got.append((self.path, json.loads(body)))
            fine = secret == SECRET or bool(lax)
            answer = b'{"secret": "%s"}' % secret.encode()
            self.send_response(lax[0] if lax else 200 if fine else 401)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        server.got, server.lax = got, lax
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.shutdown()


def hooks(hub):
    return [hook["webhook"] for hook in hub.state.webhooks().values()]


def test_what_the_configuration_watches_is_registered(hub, say, tmp_path):
    (tmp_path / "merge-bot.toml").write_text(TOML)
    assert "Registered" in say("create")
    (made,) = hooks(hub)
    assert (made["url"], made["secret"]) == (f"{URL}/webhooks/hub", SECRET)
    assert made["domains"] == ["repo", "discussion"]
    assert [(w["type"], w["name"]) for w in made["watched"]] == [
        ("user", "alice"), ("org", "acme"), ("user", "bob"), ("model", "carol/one"),
    ]  # fmt: skip


def test_the_same_address_again_is_changed_and_enabled(hub, say):
    say("create", URL, "--owner", "alice")
    (first,) = hooks(hub)
    state = hub.state.webhooks()
    state[first["id"]]["webhook"]["disabled"] = True
    hub.state.save_webhooks(state)
    assert "Changed" in say("create", URL, "--repo", "acme/lora")
    (again,) = hooks(hub)
    assert (again["id"], again["disabled"]) == (first["id"], False)
    assert again["watched"] == [{"type": "model", "name": "acme/lora"}]


def test_an_answer_that_was_lost_leaves_one_webhook(hub, say):
    hub.fault("/api/settings/webhooks$", method="POST", drop_after=0, times=1)
    say("create", URL, "--owner", "alice")
    assert len(hooks(hub)) == 1


def test_list_and_delete(hub, say, monkeypatch):
    assert "There are none" in say("list")
    say("create", URL, "--owner", "alice")
    (made,) = hooks(hub)
    assert f"{made['id']}  {URL}/webhooks/hub  alice" in say("list")
    (told,) = json.loads(say("list", "--json"))["webhooks"]
    assert (told["id"], told["signed"]) == (made["id"], True)
    assert "There is no webhook 'nope'" in say("delete", "nope", "--yes", code=2)
    asked = []

    def prompt(text):
        asked.append(text)
        return made["id"] if len(asked) == 1 else "y"

    monkeypatch.setattr("click.termui.visible_prompt_func", prompt)
    assert cli.main(["webhook", "delete"]) == 0
    assert len(asked) == 2
    assert hooks(hub) == []


def test_a_test_says_what_came_back(say, door):
    said = say("test", f"{door.url}/webhooks/hub")
    assert "With the secret: 200" in said
    assert "With a wrong secret: 401" in said
    (path, payload), _ = door.got
    assert path == "/webhooks/hub"
    assert payload["webhook"]["version"] == 3


def test_a_door_that_is_open_to_all_is_told(say, door):
    door.lax.append(200)
    assert "does not refuse a wrong secret" in say("test", door.url, code=5)


def test_a_door_that_knows_another_secret_is_told(say, door, monkeypatch):
    door.lax.append(401)
    assert "status 401" in say("test", door.url, code=4)


def test_nobody_there(say):
    assert "does not answer" in say("test", "http://127.0.0.1:9", code=4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["create"], "Nothing says where the service is reached"),
        (["create", "ftp://x"], "is no address"),
        (["create", URL], "Nothing says what is to be watched"),
        (["create", URL, "--owner", "al*"], "watches no pattern such as al*"),
    ],
)
def test_what_lacks_is_said(hub, say, words, says):
    assert says in say(*words, code=2)
    assert hooks(hub) == []


def test_without_a_secret_there_is_no_webhook(hub, say, monkeypatch):
    monkeypatch.delenv("MERGE_BOT_HUB__WEBHOOK_SECRET")
    assert "There is no secret" in say("create", URL, "--owner", "alice", code=2)


def test_without_a_token_there_is_no_webhook(say, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "token" in say("list", code=5)
