"""What strangers leave half sent at a webhook's door keeps nobody else out."""

import asyncio
import time

import httpx2
import pytest
from fastapi import HTTPException
from starlette.requests import Request

from bot.serve.body import Bodies
from bot.serve.service import Limits
from tests.serve.process import commented, pushed, serving, signed

LIMITS = Limits(body=100, bodies=400, body_patience=0.2)
HEAD = (
    b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


def half(size, *, address):
    """A request of which so many bytes come, and then nothing."""
    sent = [{"type": "http.request", "body": b"x" * size, "more_body": True}]

    async def receive():
        return sent.pop() if sent else await asyncio.Event().wait()

    headers = [(b"content-type", b"application/json")]
    return Request({"type": "http", "headers": headers, "client": (address, 1)}, receive)


async def refused(bodies, size, *, address):
    try:
        async with bodies.read(half(size, address=address)):
            return 200
    except HTTPException as error:
        return error.status_code


def test_one_address_has_a_share_and_all_of_them_the_whole_for_a_while():
    async def attack():
        bodies = Bodies(LIMITS)
        waiting = [asyncio.create_task(refused(bodies, 99, address=f"10.0.0.{n}")) for n in range(3)]
        await asyncio.sleep(0.05)
        assert await refused(bodies, 2, address="10.0.0.1") == 503  # has its share
        assert await refused(bodies, 99, address="10.0.0.9") == 408  # has one, too
        assert await asyncio.gather(*waiting) == [408] * 3
        assert (bodies.held, len(bodies._by)) == (0, 0)

    asyncio.run(attack())


@pytest.mark.slow
def test_half_bodies_from_one_address_keep_neither_door_shut_for_long(tmp_path):
    size = 4 * 2**20
    with serving(tmp_path, "--no-worker", MERGE_BOT_SERVER__REQUEST_SECONDS="20") as server:
        silent = [server.connect() for _ in range(17)]
        began = time.monotonic()
        for connection in silent:
            connection.sendall(HEAD % size + b"x" * (size - 1))
        secret = {"X-Webhook-Secret": "hub-secret-of-the-tests"}
        assert httpx2.post(f"{server.url}/webhooks/hub", json=pushed(), headers=secret).status_code == 202
        assert time.monotonic() - began < 5
        time.sleep(max(0.0, 6.5 - (time.monotonic() - began)))
        assert httpx2.post(f"{server.url}/webhooks/github", **signed(commented())).status_code == 202
        for connection in silent:
            connection.close()
