"""A real server on 127.0.0.1 for a real browser, with jobs in memory and a Hub to sign in with."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, sync_playwright

from bot.jobs.desk import Desk
from bot.jobs.inbox import Delivery
from bot.serve import connections
from bot.serve.app import app
from bot.serve.pages.routes import router
from bot.serve.pages.site import Client, Site
from bot.serve.service import Limits, Service
from tests.hub.server import LoopbackHub
from tests.serve.pages.filled import filled

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
TOKEN = "the-operators-long-token"


@dataclass
class Served:
    """The pages on a port."""

    desk: Desk
    site: Site
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.site.public_url


class Running:
    """The service's application in a thread; it can be stopped, and started again on the same port."""

    def __init__(self, app: FastAPI, at: socket.socket) -> None:
        self.app, self.port = app, at.getsockname()[1]
        config = connections.config(app, Limits())
        config.timeout_graceful_shutdown = 1
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [at]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


def listening(port: int = 0) -> socket.socket:
    """A socket on this machine."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


async def nowhere(deliveries: Sequence[Delivery]) -> None:
    raise AssertionError("these tests send no webhooks")


# While it is there an event loop runs, and tests of other modules begin loops of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no browser is installed (apt-get install chromium)")  # CI takes this for a failure
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as started:
        started.add_user("alice", orgs=["acme"])
        started.add_user("mallory")
        yield started


@pytest.fixture
def running() -> Iterator[list[Running]]:
    """The servers of this test."""
    started: list[Running] = []
    yield started
    for each in started:
        each.stop()


@pytest.fixture
def running_again(running: list[Running]) -> Callable[[Served], Callable[[], None]]:
    """Stops the last server; what comes back starts it again, on the same port."""

    def stop(served: Served) -> Callable[[], None]:
        last = running[-1]
        last.stop()

        def start() -> None:
            running.append(Running(last.app, listening(last.port)))

        return start

    return stop


@pytest.fixture
def serve(running: list[Running]) -> Callable[..., Served]:
    """Starts the pages, below a path if one is given; what is said goes into `Site`."""

    def start(desk: Desk | None = None, *, below: str = "", **said: object) -> Served:
        ids: dict[str, str] = {}
        if desk is None:
            desk, ids = filled(time.time())
        at = listening()
        given = {
            "secret": "s" * 32,
            "operator_token": TOKEN,
            "askers": ("alice",),
            "strangers": "read-only",
            **said,
        }
        site = Site(public_url=f"http://127.0.0.1:{at.getsockname()[1]}{below}", **given)
        service = Service(
            put=nowhere, hub_secret="hub-secret", routers=(router(desk, site=site),), path=site.path
        )
        running.append(Running(app(service), at))
        return Served(desk=desk, site=site, ids=ids)

    return start


@pytest.fixture
def with_hub(hub: LoopbackHub, serve: Callable[..., Served]) -> Callable[..., Served]:
    """The same, where people sign in with the loopback Hub."""

    def start(person: str = "alice", **said: object) -> Served:
        client = Client(id=hub.state.oauth.client_id, secret=hub.state.oauth.client_secret)
        served = serve(endpoint=hub.url, client=client, **said)
        hub.sign_in(person, redirect_uri=served.site.callback)
        return served

    return start


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of its own that fails the test when the page's script does, or when it asks another host for anything."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme="light")
    context.set_default_timeout(5000)
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None
    )
    tab.on("request", lambda sent: None if "://127.0.0.1" in sent.url else wrong.append(sent.url))
    yield tab
    context.close()
    assert wrong == []


def as_operator(page: Page, served: Served) -> None:
    """The list of jobs, signed in past the form: a test of its own fills it in."""
    form = csrf_of(page.request.get(f"{served.url}/sign-in").text())
    page.request.post(f"{served.url}/sign-in/token", form={"csrf": form, "token": TOKEN})
    page.goto(served.url)


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    """A browser without pages: it keeps cookies, and follows nothing by itself."""
    with httpx2.Client(timeout=10, verify=False) as made:  # reading certificates takes longer than most tests
        yield made


def csrf_of(text: str) -> str:
    """What the forms of this page carry."""
    return re.search(r'name="csrf" value="([^"]+)"', text)[1]


def signed_in(client: httpx2.Client, served: Served) -> httpx2.Response:
    """The end of a sign-in at the Hub."""
    form = csrf_of(client.get(f"{served.url}/sign-in").text)
    to_hub = client.post(f"{served.url}/sign-in/hub", data={"csrf": form})
    back = client.get(to_hub.headers["location"])
    return client.get(back.headers["location"])
