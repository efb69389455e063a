"""Slow, greedy and broken clients on real sockets: each ends, and nobody else notices."""

import asyncio
import json
import socket
import time
from contextlib import ExitStack, suppress

import httpx2
import pytest
from uvicorn import Server

from bot.serve.connections import config
from bot.serve.service import Limits
from tests.serve.process import PATIENCE, SECRET, pushed, serving
from tests.serve.test_webhooks import kept

HEAD = (
    b"POST /webhooks/hub HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Webhook-Secret: %s\r\n"
    % SECRET.encode()
)


def everything(connection):
    """What comes until the other end closes."""
    came = b""
    while part := connection.recv(65_536):
        came += part
    return came


def test_a_head_that_never_ends_is_cut_off(server):
    with server.connect() as slow:
        began = time.monotonic()
        for byte in (
            b"GET / HTTP/1.1\r\nX-Slow: " + b"a" * 1000
        ):  # one byte at a time keeps no connection alive
            try:
                slow.send(bytes([byte]))
            except OSError:
                break
            if time.monotonic() - began > PATIENCE + 5:
                break
            time.sleep(0.02)
        assert PATIENCE - 0.2 < time.monotonic() - began < PATIENCE + 3


def test_a_connection_that_says_nothing_is_cut_off(server):
    with server.connect() as silent:
        assert everything(silent).startswith(b"HTTP/1.1 408 ")


def test_half_a_body_is_cut_off_and_not_kept(server):
    before, body = kept(server), json.dumps(pushed(commit="d" * 40)).encode()
    with server.connect() as half:
        half.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
        assert everything(half).startswith(b"HTTP/1.1 408 ")
    with server.connect() as left:
        left.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
    assert httpx2.get(f"{server.url}/readyz").status_code == 200
    assert kept(server) == before
    assert not [line for line in server.log() if "trace" in line]


def test_a_second_request_on_a_connection_has_its_time_too(server):
    with server.connect() as reused:
        for _ in range(3):
            time.sleep(PATIENCE * 0.6)  # together longer than one request may take
            reused.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            came = b""
            while b'"alive"' not in came:
                came += reused.recv(65_536)
            assert came.startswith(b"HTTP/1.1 200 ")
        reused.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        assert b"408" in everything(reused)


def test_what_is_sent_in_one_go_is_answered_in_turn(server):
    with server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET /nope HTTP/1.0\r\n\r\n")
        came = everything(connection)
    assert came.count(b"HTTP/1.1 200 ") == 3
    assert came.count(b"HTTP/1.1 404 ") == 1


def test_what_is_no_http_is_answered_and_cut(server):
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"GET\r\n\r\n"):
        with server.connect() as broken:
            broken.sendall(sent)
            assert everything(broken).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nA: ",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;a=",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nA: ",
    ],
    ids=["address", "header", "headers", "extension", "trailer"],
)
def test_what_the_parser_holds_has_a_bound(server, start):
    with server.connect() as greedy:
        greedy.sendall(start)
        time.sleep(0.1)
        greedy.sendall(b"b" * 20_000)
        assert everything(greedy).startswith(b"HTTP/1.1 431 ")


def test_requests_that_are_sent_ahead_have_a_bound(server):
    with server.connect() as greedy:
        greedy.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000)
        came = everything(greedy)
    assert came.count(b"HTTP/1.1 200 ") < 20
    assert came.count(b"HTTP/1.1 400 ") == 1


def test_a_connection_that_goes_on_with_nothing_is_cut_off(server):
    """After an answer, and after one that did not wait for the body."""
    for sent in (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /webhooks/hub HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    ):
        with server.connect() as idle:
            idle.sendall(sent)
            idle.recv(65_536)
            began = time.monotonic()
            idle.sendall(b"\r\n")
            everything(idle)
            assert PATIENCE - 0.2 < time.monotonic() - began < PATIENCE + 3


def test_who_asks_for_another_protocol_is_answered_in_this_one(server):
    with server.connect() as other:
        other.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        came = everything(other)
    assert came.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in came


@pytest.mark.parametrize(
    "start",
    [
        b"POST /webhooks/hub HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n",
        b"POST /webhooks/hub HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nContent-Length: %d\r\n",
    ],
    ids=["length", "chunks", "connect"],
)
def test_a_body_that_comes_with_another_protocol_is_not_read_as_a_request(server, start):
    body = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as other, suppress(BrokenPipeError, ConnectionResetError):
        other.sendall(start.replace(b"%d", b"%d" % len(body)) + b"Host: x\r\n\r\n")
        came = other.recv(65_536)
        assert came.startswith(b"HTTP/1.1 400 ")
        other.sendall(body)
        assert b"HTTP/1.1 200 " not in everything(other)


def test_a_head_that_is_too_large_comes_through_in_no_way(server):
    """Also in one packet, which the parser takes whole; a body of that size may come so."""
    with server.connect() as greedy:
        greedy.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 10_000 + b"\r\n")
        came = everything(greedy)
    assert came.startswith(b"HTTP/1.1 431 ")
    assert b"HTTP/1.1 200 " not in came
    with server.connect() as large:
        large.sendall(HEAD + b"Content-Length: 30000\r\n\r\n" + b"b" * 30_000)
        assert b" 431 " not in large.recv(65_536)


@pytest.mark.parametrize(
    "wrong", [b"BAD\r\n\r\n", b"GET / HTTP/1.1\r\nA: "], ids=["no request", "half of one"]
)
def test_an_answer_that_has_begun_is_cut_and_not_continued_with_another(wrong):
    """Though a request that was sent ahead waits behind it."""

    async def begins(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.Event().wait()

    async def asked():
        server = Server(config(begins, Limits(patience=0.3)))
        door = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve(sockets=[door]))
        reader, writer = await asyncio.open_connection(*door.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        came = await reader.readuntil(b"half")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + wrong)
        came += await asyncio.wait_for(reader.read(), 5)
        writer.close()
        server.should_exit = server.force_exit = True
        await serving
        return came

    came = asyncio.run(asked())
    assert came.count(b"HTTP/1.1 ") == 1
    assert came.endswith(b"half")


@pytest.mark.slow
def test_too_many_connections_are_told_to_come_again(tmp_path):
    with serving(tmp_path, "--no-worker", MERGE_BOT_SERVER__CONNECTIONS="8") as server, ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(8)]
        time.sleep(0.2)
        with server.connect() as one_more:
            answer = everything(one_more)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After" in answer
        for connection in silent:
            everything(connection)  # the silent ones have had their time
        assert httpx2.get(f"{server.url}/readyz").status_code == 200


def test_who_reads_nothing_is_given_up(server):
    """By the kernel: its patience is set where we listen, and every connection inherits it."""
    from bot.commands.listening import STUCK, listen

    with listen("127.0.0.1", 0) as door, socket.create_connection(door.getsockname()):
        accepted, _ = door.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == STUCK
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
