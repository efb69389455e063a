"""A fake GitHub with acme/adapters and its people, for the tests of the client and of the doors."""

from collections.abc import Iterator

import pytest

from bot.clients import github_api, github_retry
from bot.clients.github import GitHub
from tests.github.server import FakeGitHub

REPO = "acme/adapters"
CONFIG = '{"peft_type": "LORA", "base_model_name_or_path": "acme/base", "r": 8}'
WEIGHTS = b"weights" * 1000
ADAPTER = {"adapter/adapter_config.json": CONFIG, "adapter/adapter_model.safetensors": WEIGHTS}


class Clock:
    """Waits that were asked for, none of which happen."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Instead of the pauses between retries; those between writes are left out, too."""
    made = Clock()
    monkeypatch.setattr(github_retry, "sleep", made.sleep)
    monkeypatch.setattr("tenacity.nap.time.sleep", made.sleep)
    monkeypatch.setattr(github_api, "PAUSE", 0)
    return made


@pytest.fixture
def forge(clock: Clock) -> Iterator[FakeGitHub]:
    """Running, with acme/adapters: wendy may write, rita reads, carol is nobody in particular."""
    with FakeGitHub() as running:
        running.add_repo(REPO, roles={"wendy": "write", "rita": "read"})
        running.add_user("carol")
        yield running


def client(forge: FakeGitHub, token: str | None = None, **options: object) -> GitHub:
    """The real client with a workflow's token, or another."""
    token = token or forge.workflow_token(REPO)
    return GitHub(REPO, token=token, api_url=forge.url, **{"timeout": 3.0, "attempts": 3, **options})
