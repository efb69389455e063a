"""The client's errors become ours, each with one sentence and one advice, and none with a token."""

import errno
import json

import httpx2
import pytest
from huggingface_hub import HfApi, get_session, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from bot.clients import http
from bot.clients.http import retrying
from bot.clients.hub_errors import redacted, translated
from bot.errors import AccessError, HostError, InputError, MergeBotError, MergeError, RefusedError
from tests.clients.hub_fixtures import hub

__all__ = ["hub"]
TOKEN = "hf_" + "a1B2" * 8


def stop(call) -> MergeBotError:
    with pytest.raises(MergeBotError) as caught, translated("read acme/base"):
        call()
    error = caught.value
    assert error.sentence.startswith("Could not read acme/base: ")
    assert error.sentence.endswith(".")
    assert error.advice.endswith(".")
    assert TOKEN not in error.sentence + error.advice
    return error


def raising(error):
    def call():
        raise error

    return call


def http_error(status, *, headers=None, message="no"):
    request = httpx2.Request("GET", "https://huggingface.co/api/models/acme/base")
    response = httpx2.Response(status, headers=headers, request=request)
    return HfHubHTTPError(message, response=response, server_message=message)


def api(hub, user="alice", **kind):
    return HfApi(endpoint=hub.url, token=hub.token(user, **kind) if user else False)


def test_missing_repository_seen_with_a_token(hub):
    error = stop(lambda: api(hub).model_info("acme/nothing"))
    assert (type(error), error.code) == (InputError, "not-found")


def test_missing_or_private_repository_seen_by_a_stranger(hub):
    hub.commit("acme/secret", {"config.json": "{}"}, private=True)
    for name in ("acme/secret", "acme/nothing"):
        error = stop(lambda name=name: api(hub, None).model_info(name))
        assert (type(error), error.code) == (AccessError, "no-access")


def test_gated_repository(hub, tmp_path):
    hub.commit("acme/gated", {"config.json": "{}"}, gated=True)
    error = stop(
        lambda: hf_hub_download(
            "acme/gated",
            "config.json",
            endpoint=hub.url,
            token=hub.token("bob"),
            cache_dir=tmp_path / "cache",
        )
    )
    assert (type(error), error.code) == (AccessError, "gated")
    assert f"{hub.url}/acme/gated" in error.advice


def test_revision_and_file_that_are_not_there(hub, tmp_path):
    hub.commit("acme/base", {"config.json": "{}"})
    assert stop(lambda: api(hub).model_info("acme/base", revision="v9")).code == "revision-not-found"
    error = stop(lambda: api(hub).hf_hub_download("acme/base", "nope.json", cache_dir=tmp_path / "cache"))
    assert (type(error), error.code) == (InputError, "file-not-found")


@pytest.mark.parametrize("token", [TOKEN, TOKEN + "\n", "hf_ключ", TOKEN + "\x00"])
def test_bad_tokens(hub, token):
    error = stop(lambda: HfApi(endpoint=hub.url, token=token).model_info("acme/base"))
    assert (type(error), error.code) == (AccessError, "bad-token")
    assert "ключ" not in f"{error.sentence}{error.__cause__}"


def test_writing_with_a_token_that_may_only_read(hub):
    hub.commit("acme/base", {"config.json": "{}"})
    error = stop(lambda: api(hub, role="read").create_repo("alice/new"))
    assert (type(error), error.code) == (AccessError, "forbidden")


@pytest.mark.parametrize(
    ("foreign", "kind", "code"),
    [
        (http_error(500), HostError, "hub-down"),
        (http_error(503), HostError, "hub-down"),
        (http_error(429, headers={"retry-after": "7"}), HostError, "rate-limit"),
        (http_error(412), HostError, "changed-meanwhile"),
        (http_error(409), HostError, "conflict"),
        (http_error(418), HostError, "hub-declined"),
        (http_error(401, message="Invalid credentials in Authorization header"), AccessError, "bad-token"),
        (http_error(401), AccessError, "no-access"),
        (http_error(403, message=f"token {TOKEN} may not"), AccessError, "forbidden"),
        (httpx2.ReadTimeout("x"), HostError, "hub-timeout"),
        (httpx2.ConnectError("x"), HostError, "hub-unreachable"),
        (httpx2.RemoteProtocolError("cut"), HostError, "hub-unreachable"),
        (ConnectionResetError("x"), HostError, "hub-unreachable"),
        (OfflineModeIsEnabled("x"), HostError, "offline"),
        (HFValidationError("Repo id must be a/b"), InputError, "bad-name"),
        (json.JSONDecodeError("x", "<html>", 0), HostError, "hub-down"),
        (OSError(errno.ENOSPC, "full"), MergeError, "disk-full"),
    ],
)
def test_each_kind_of_error(foreign, kind, code):
    error = stop(raising(foreign))
    assert (type(error), error.code) == (kind, code)


def test_rate_limit_says_when_to_come_back():
    assert "in 7 seconds" in stop(raising(http_error(429, headers={"retry-after": "7"}))).advice


@pytest.mark.parametrize(
    "error", [KeyError("bug"), ValueError("bug"), FileNotFoundError("x"), KeyboardInterrupt()]
)
def test_what_is_no_matter_of_the_hub_passes_through(error):
    with pytest.raises(type(error)), translated("read acme/base"):
        raise error


def test_our_own_errors_pass_through():
    ours = RefusedError("No.", advice="Do not.", code="no")
    with pytest.raises(RefusedError) as caught, translated("read"):
        raise ours
    assert caught.value is ours


def test_redacted_hides_whatever_looks_like_a_token():
    text = redacted(f"a {TOKEN}\nBearer xyz123 https://user:pw@host/x " + "y" * 300)
    assert TOKEN not in text
    assert "xyz123" not in text
    assert "pw@" not in text
    assert "\n" not in text
    assert len(text) == 200


def test_reads_are_tried_again_and_only_while_the_host_is_at_fault(hub, monkeypatch):
    waits = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    hub.commit("acme/base", {"config.json": "{}"})
    hub.fault("/api/models/acme/base", status=503, times=2)
    hub.fault("/api/models/acme/base", status=429, headers={"Retry-After": "3"}, times=1)
    assert retrying(lambda: api(hub).model_info("acme/base"), attempts=4).id == "acme/base"
    assert waits[2] == 3
    assert 0.5 <= waits[0] < waits[1] < 3
    hub.clear_requests()
    assert stop(lambda: retrying(lambda: api(hub).model_info("acme/none"), attempts=4)).code == "not-found"
    assert len(hub.requests) == 1


def test_attempts_run_out(hub, monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    hub.fault("/api/models/acme/base", status=502)
    assert stop(lambda: retrying(lambda: api(hub).model_info("acme/base"), attempts=3)).code == "hub-down"
    assert len(hub.requests) == 3


def test_a_wait_of_an_hour_is_told_and_not_slept(hub):
    hub.fault("/discussions", status=429, headers={"Retry-After": "3600"})
    hub.fault("/tree/", status=429, headers={"Retry-After": "3600"})
    hub.commit("acme/base", {"config.json": "{}"})
    hub.clear_requests()
    error = stop(lambda: retrying(lambda: list(api(hub).list_repo_tree("acme/base")), attempts=3))
    assert error.code == "rate-limit"
    assert "3600 seconds" in error.advice
    assert len(hub.requests) == 1


def test_every_request_has_a_time_out(hub):
    http.configure(0.2)
    hub.commit("acme/base", {"config.json": "{}"})
    hub.fault("/api/models/acme/base", hang=5)
    assert stop(lambda: api(hub).model_info("acme/base")).code == "hub-timeout"
    # The client passes timeout=None here, which would wait for ever.
    assert (
        stop(lambda: get_session().get(f"{hub.url}/api/models/acme/base", timeout=None)).code == "hub-timeout"
    )


def test_a_host_that_is_not_there():
    http.configure(0.5)
    error = stop(lambda: HfApi(endpoint="http://127.0.0.1:9", token=False).model_info("acme/base"))
    assert (type(error), error.code) == (HostError, "hub-unreachable")


def test_nothing_is_told_or_asked_that_a_merge_does_not_need(hub):
    HfApi(endpoint=hub.url, token=hub.token("alice")).whoami()
    [request] = hub.requests
    assert "/api/whoami-v2" in request.path
    assert http.constants.HF_HUB_DISABLE_TELEMETRY is True
