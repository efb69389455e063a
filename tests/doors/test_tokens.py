"""Trusted Publishers: a workflow proves whose it is, to a loopback Hub, by a loopback of GitHub's identity service."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.e2e import ADAPTER, desk, hub, models, processes

__all__ = ["desk", "hub", "models", "processes"]
SUBJECT = "repo:acme/adapters:ref:refs/heads/main"


class Identity(BaseHTTPRequestHandler):
    """GitHub's side: whoever knows the request token gets a statement for the audience that is asked for."""

    def do_GET(self):
        known = self.headers["Authorization"] == "Bearer request-token"
        audience = parse_qs(urlsplit(self.path).query).get("audience", [""])[0]
        body = json.dumps({"value": json.dumps({"aud": audience, "sub": SUBJECT})} if known else {}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def workflow(desk):
    """A desk that is a workflow's job with `id-token: write`, and no token of the Hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Identity)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    desk.sit(None)
    desk.set(
        ACTIONS_ID_TOKEN_REQUEST_URL=f"http://127.0.0.1:{server.server_address[1]}/token?api-version=2",
        ACTIONS_ID_TOKEN_REQUEST_TOKEN="request-token",
    )
    yield desk
    server.shutdown()
    server.server_close()


def publish(desk, to):
    return desk("run", ADAPTER, "--to", to, "--validate", "structure", "--json")


def test_a_trusted_publisher_needs_no_stored_token(workflow):
    workflow.hub.commit("alice/trusted", {"README.md": "# Mine\n"}, private=True)
    workflow.hub.trust("alice/trusted", SUBJECT)
    answer = publish(workflow, "alice/trusted")
    assert answer.code == 0, answer.err
    assert "model.safetensors" in workflow.hub.files("alice/trusted")


def test_somebody_elses_workflow_gets_no_token(workflow):
    workflow.hub.commit("alice/trusted-2", {"README.md": "# Mine\n"})
    workflow.hub.trust("alice/trusted-2", "repo:eve/adapters:ref:refs/heads/main")
    answer = publish(workflow, "alice/trusted-2")
    assert answer.error["code"] == "no-trusted-publisher"
    assert answer.code == 5
    assert "Trusted Publisher" in answer.error["advice"]


def test_a_token_serves_where_no_publisher_is_set_up(workflow):
    workflow.set(HF_TOKEN=workflow.hub.token("alice"))
    assert publish(workflow, "alice/untrusted").code == 0


def test_a_host_that_is_down_is_said(workflow):
    workflow.hub.fault("/oauth/token", status=503)
    assert publish(workflow, "alice/trusted-3").error["code"] == "hub-down"


def test_an_identity_service_that_declines_is_said(workflow):
    workflow.set(ACTIONS_ID_TOKEN_REQUEST_TOKEN="wrong")
    assert publish(workflow, "alice/trusted-4").error["code"] == "no-trusted-publisher"
