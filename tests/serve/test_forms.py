"""What strangers send to the forms: on real sockets, to the real process, with an eye on its memory."""

import httpx2

from bot.serve.forms import MOST

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MANY = 50 * 2**20


def chunks():
    for _ in range(MANY // 2**20):
        yield b"x" * 2**20


def test_fifty_megabytes_to_a_form_are_refused_with_a_page_and_not_held(server):
    before = server.rss()
    for path in ("/sign-out", "/sign-in/token", f"/jobs/{'a' * 32}/cancel"):
        for content in (b"csrf=" + b"x" * MANY, chunks()):
            answer = httpx2.post(server.url + path, content=content, headers=FORM, timeout=30)
            assert answer.status_code == 413
            assert "<h1>Too large</h1>" in answer.text
            assert answer.headers["x-frame-options"] == "DENY"
    assert server.rss() - before < 20


def test_a_form_in_parts_is_bounded_as_well(server):
    before = server.rss()
    answer = httpx2.post(f"{server.url}/sign-out", files={"csrf": b"x" * MANY}, timeout=30)
    assert answer.status_code == 413
    assert server.rss() - before < 20


def test_a_long_form_is_read(server):
    content = b"csrf=" + b"x" * (MOST - 5)
    assert httpx2.post(f"{server.url}/sign-out", content=content, headers=FORM).status_code == 403
    assert httpx2.post(f"{server.url}/sign-out", content=content + b"x", headers=FORM).status_code == 413


def test_what_reads_nothing_is_answered_however_much_is_sent(server):
    assert httpx2.post(f"{server.url}/nowhere", content=chunks(), headers=FORM, timeout=30).status_code == 405
