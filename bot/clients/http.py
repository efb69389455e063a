"""How every request to the Hub is made: always with time-outs, and reads again when the Hub stumbles.

`configure` sets up huggingface_hub's one HTTP client; `retrying` is for reads only, because a write whose answer
was lost may have happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub import constants, hf_raise_for_status, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import _http
from huggingface_hub.utils._http import default_client_factory, parse_ratelimit_headers
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_after_delay
from tenacity import wait_exponential_jitter as backoff

T = TypeVar("T")
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
LONGEST_WAIT = (
    120.0  # seconds: a Hub that asks for more gets an error that says so, not a bot that seems dead
)
BUDGET = (
    300.0  # seconds of one read with all its retries: the client retries some requests itself, inside ours
)
TIMES = tuple(httpx2.Timeout(None).as_dict())
PATIENCE = 4  # a write is answered only after the Hub has checked every file of it


def configure(timeout: float) -> None:
    """Every request of this process from now on: give up after `timeout` seconds without a byte of an answer.

    No request asks or tells what a merge does not need: no telemetry, no list of the agents that may be running us.
    The client is one for the whole process; the one in use is closed, unless it is as asked for already: in a service,
    other threads are in the middle of their requests.
    """
    if getattr(_http._GLOBAL_CLIENT_FACTORY, "bounded_by", None) == timeout:  # noqa: SLF001 - it can be set, not asked
        return
    # What the variable of that name does; the client has read it long ago, and looks here at every request.
    constants.HF_HUB_DISABLE_TELEMETRY = True

    def bounded(request: httpx2.Request) -> None:
        # The client passes `timeout=None` with some requests, which would switch its own time-outs off.
        asked = request.extensions.get("timeout") or {}
        times = {name: timeout if asked.get(name) is None else min(asked[name], timeout) for name in TIMES}
        if request.method in {"POST", "PUT", "PATCH"}:
            times["read"] = max(times["read"] or 0, timeout * PATIENCE)
        request.extensions["timeout"] = times

    def client() -> httpx2.Client:
        made = default_client_factory()  # not a bare Client: it brings request ids and the offline mode
        hooks = made.event_hooks
        made.event_hooks = {
            "request": [*hooks.get("request", []), bounded],
            "response": [*hooks.get("response", []), refuse_a_long_wait],
        }
        return made

    client.bounded_by = timeout  # type: ignore[attr-defined] # a mark for the next call
    set_client_factory(client)


def retrying(call: Callable[[], T], *, attempts: int) -> T:
    """What `call` answers, called up to `attempts` times while the host is at fault. For idempotent calls only.

    Waits as long as the Hub asks for, else exponentially longer with jitter. The last error is raised as it is:
    `bot.clients.hub_errors.translated` around this call gives it its sentence.
    """
    policy = Retrying(
        retry=retry_if_exception(is_transient),
        stop=stop_after_attempt(attempts) | stop_after_delay(BUDGET),
        wait=_wait,
        reraise=True,
    )
    return policy(call)


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT and (asked_wait(error.response) or 0) <= LONGEST_WAIT
    if isinstance(
        error, LocalEntryNotFoundError
    ):  # the client's wrapping of a download that found no connection
        return isinstance(error.__cause__, Exception) and is_transient(error.__cause__)
    return isinstance(error, httpx2.TimeoutException | httpx2.NetworkError | httpx2.RemoteProtocolError)


def asked_wait(response: httpx2.Response) -> float | None:
    """How many seconds the Hub asks us to wait, by `Retry-After` or its rate limit's headers; None: it does not."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isdigit() else None


def refuse_a_long_wait(response: httpx2.Response) -> None:
    """A response hook: the client itself would sleep for as long as the Hub says, an hour if it says an hour.

    Raises HfHubHTTPError, which the client does not retry.
    """
    if response.status_code in TRANSIENT and (asked_wait(response) or 0) > LONGEST_WAIT:
        response.read()
        hf_raise_for_status(response)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = asked_wait(error.response) if isinstance(error, HfHubHTTPError) else None
    return asked if asked is not None else backoff(multiplier=0.5, max=20, jitter=0.5)(state)
