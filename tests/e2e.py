"""The command line at one user's desk, with a Hub on this machine: what the end-to-end tests share."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import close_session, constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from bot import cli
from tests.hub.server import LoopbackHub
from tests.tiny.adapters import LORA_VARIANTS, edit_config, live, save_adapter
from tests.tiny.models import inputs, load, logits, save_base

__all__ = ["Answer", "Desk", "desk", "hub", "models", "processes", "tree"]
BASE, ADAPTER = "acme/tiny", "alice/tiny-lora"
HUBS: list[LoopbackHub] = []
PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = [
    "torch",
    "transformers",
    "peft",
    "bot.pipeline",
    "bot.isolation.room",
    "bot.merge.stream",
    "bot.validate.run",
    "tests.e2e",
]


@dataclass(frozen=True)
class Answer:
    """What a command left behind: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


# One of each for a whole run of pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny llama and a LoRA on all its linear layers, in folders that nobody writes to."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices: threads would mostly wait for each other
    root = tmp_path_factory.mktemp("models")
    base = save_base(root / "base", "llama")
    adapter = save_adapter(root / "adapter", base, config=LORA_VARIANTS["plain"], architecture="llama")
    (adapter / "README.md").unlink()  # PEFT writes one that names the base again
    yield SimpleNamespace(base=base, adapter=adapter, batch=inputs("llama", base))
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory, models: SimpleNamespace) -> Iterator[LoopbackHub]:
    """Users alice (of acme), bob and carol; the tiny base at acme/tiny, the adapter at alice/tiny-lora.

    One for all: each module that imports this fixture has it to itself, and `processes` know the first Hub only.
    """
    if not HUBS:
        made = LoopbackHub(tmp_path_factory.mktemp("hub")).start()
        HUBS.append(made)
        made.add_user("alice", orgs=("acme",))
        made.add_user("bob")
        made.add_user("carol")
        made.commit(BASE, models.base)
        made.commit(ADAPTER, _named(models.adapter, BASE))
    yield HUBS[0]
    HUBS[0].stop()  # at the end of the session, the first time for all
    published = (p for p in HUBS[0].state.root.rglob("*") if p.is_file() and p.name != "accounts.json")
    tokens = [token.encode() for token in HUBS[0].state.accounts._tokens]
    assert not [p for p in published if any(token in p.read_bytes() for token in tokens)]


@pytest.fixture(scope="session")
def processes(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts processes of their own, forked from one that has imported torch already: seconds saved for each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**hub.environment(), "HF_HOME": str(tmp_path_factory.mktemp("home"))}.items():
            patch.setenv(name, value)
        PROCESSES.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()
    return PROCESSES.Process


def _named(adapter: Path, base: str) -> dict[str, Path | str]:
    """The adapter's files as they lie on the Hub, naming a base there."""
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
    files: dict[str, Path | str] = {
        p.relative_to(adapter).as_posix(): p for p in adapter.rglob("*") if p.is_file()
    }
    return files | {"adapter_config.json": json.dumps(config)}


# One for each test


@pytest.fixture
def desk(
    hub: LoopbackHub,
    models: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Iterator[Desk]:
    """Alice's, with nothing cached, nothing in the way, and no waiting between attempts."""
    hub.clear_requests()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    found = Desk(hub, models, tmp_path, monkeypatch, capfd, request)
    found.sit("alice")
    yield found
    for run in found.runs:
        run.kill()
    hub.clear_faults()
    set_client_factory(default_client_factory)
    close_session()
    assert found.keeps_secrets(tmp_path)  # results, logs, caches and leftovers of every test


class Desk:
    """One user's desk: calls commands in this process, starts others in processes of their own, looks at what is left.

    All local sources and results of a test lie below `place`; `out` is a folder that is not there yet.
    """

    def __init__(
        self,
        hub: LoopbackHub,
        models: SimpleNamespace,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        request: pytest.FixtureRequest,
    ) -> None:
        self.hub, self.models, self.root = hub, models, root
        self._monkeypatch, self._capfd, self._request = monkeypatch, capfd, request
        self.place, self.scratch = root / "place", root / "scratch"
        self.place.mkdir()
        self.scratch.mkdir()
        self.out = self.place / "merged"
        self.runs: list[Run] = []

    def sit(self, user: str | None) -> None:
        """Another user sits down, or a stranger."""
        self.set(**self.hub.environment(user), MERGE_BOT_SCRATCH=str(self.scratch), MERGE_BOT_TIMEOUT="20")
        # Commands in this process merge in it too, where torch is; `start`, `apart` and test_isolation do not.
        self.set(MERGE_BOT_ISOLATION="none")

    def apart(self) -> None:
        """From here on as with MERGE_BOT_ISOLATION=process: work on strangers' files has a process of its own."""
        self.set(MERGE_BOT_ISOLATION="process")

    def set(self, **environment: str) -> None:
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)

    # sources

    def adapter(self, name: str = "adapter", *, base: str | None = None, **config: Any) -> Path:
        """A copy of the adapter in a folder of its own, with these changes to its config."""
        folder = self.place / name
        shutil.copytree(self.models.adapter, folder)
        edit_config(folder, **{"base_model_name_or_path": base or str(self.models.base), **config})
        return folder

    def push(self, repo_id: str, folder: Path, *, base: str | None = BASE, **options: Any) -> str:
        """The folder as a repository, naming a base on the Hub; the answer is its id."""
        adapter = (folder / "adapter_config.json").is_file()
        self.hub.commit(repo_id, _named(folder, base) if base and adapter else folder, **options)
        return repo_id

    # commands

    def __call__(self, *arguments: object) -> Answer:
        """Runs a command to its end."""
        self._capfd.readouterr()
        code = cli.main([str(a) for a in arguments])
        return self._checked(Answer(code, *self._capfd.readouterr()))

    def done(self, *arguments: object) -> Any:
        """Runs a command with --json that has to succeed; the answer is its document."""
        answer = self(*arguments, "--json")
        assert answer.code == 0, answer.out + answer.err
        return answer.json

    def refused(self, *arguments: object, code: int, reason: str) -> dict[str, str]:
        """Runs a command that must stop with that exit code and reason, as text and as JSON; it leaves no trace."""
        before = self.state()
        told, asked = self(*arguments), self(*arguments, "--json")
        error = asked.error
        assert (told.code, error["code"], error["exit_code"]) == (code, reason, code), told.err
        assert asked.code == code
        assert set(asked.json) == {"error"}
        assert told.out == ""
        *progress, sentence, advice = told.err.splitlines()
        assert sentence == f"Error: {error['sentence']} [{reason}]"
        assert advice == f"Advice: {error['advice']}"
        assert error["sentence"].endswith((".", "…"))
        assert error["advice"].endswith(".")
        assert not any("rror" in line for line in (*progress, *asked.err.splitlines()))
        assert self.state() == before
        return error

    def start(self, *arguments: object, trap: str | None = None) -> Run:
        """Starts a command in a process of its own. With a trap it stops there and waits to be killed."""
        start = self._request.getfixturevalue("processes")
        names = ("HF_TOKEN", "HF_ENDPOINT", "MERGE_BOT_SCRATCH", "MERGE_BOT_TIMEOUT")
        environment = {name: os.environ[name] for name in names} | {"MERGE_BOT_ISOLATION": "process"}
        self.runs.append(Run(start, self.root, [str(a) for a in arguments], environment, trap))
        return self.runs[-1]

    def _checked(self, answer: Answer) -> Answer:
        assert answer.code != 70, answer.err
        assert "Traceback" not in answer.err, answer.err
        for token in self.tokens:
            assert token not in answer.out + answer.err
        return answer

    # what is left

    @property
    def tokens(self) -> list[str]:
        return list(self.hub.state.accounts._tokens)

    def state(self) -> dict[str, Any]:
        """Every local source, every result and leftover, and every ref on the Hub."""
        repos = {
            r.id: (dict(r.branches), dict(r.pulls), r.private) for r in self.hub.state.store.all("model")
        }
        return {
            "place": tree(self.place),
            "scratch": tree(self.scratch),
            "base": tree(self.models.base),
            **repos,
        }

    def clean(self, *names: str) -> bool:
        """Whether the place holds only these names, and there is no unfinished work."""
        return {p.name for p in self.place.iterdir()} == set(names) and not any(self.scratch.iterdir())

    def weights_read(self) -> int:
        """Bytes of weights that the Hub has sent."""
        return sum(
            r.bytes_sent for r in self.hub.requests if r.path.startswith("/blobs/") and r.method == "GET"
        )

    def keeps_secrets(self, folder: Path) -> bool:
        """Whether no file of a result holds a token."""
        content = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
        return not any(token.encode() in data for token in self.tokens for data in content)

    # what a model answers

    def wanted(
        self, adapter: Path | None = None, *, base: Path | None = None, **options: Any
    ) -> torch.Tensor:
        """What base and adapter answer, unmerged."""
        return logits(
            live(base or self.models.base, adapter or self.models.adapter, **options), self.models.batch
        )

    def plain(
        self, place: Path | str, *, revision: str | None = None, auto: str = "AutoModelForCausalLM"
    ) -> torch.Tensor:
        """What plain transformers answers from a folder; from the Hub in a process of its own."""
        if isinstance(place, Path):
            return logits(load(place, auto=auto, dtype=torch.float32), self.models.batch)
        target = self.root / "answers.pt"
        start = self._request.getfixturevalue("processes")
        given = (auto, place, revision, self.models.batch, os.environ["HF_TOKEN"], str(target))
        process = start(target=_ask, args=given)
        process.start()
        process.join(120)
        assert process.exitcode == 0
        return torch.load(target)


class Run:
    """A command in a process of its own."""

    def __init__(
        self,
        start: Callable[..., Any],
        root: Path,
        arguments: list[str],
        environment: dict[str, str],
        trap: str | None,
    ) -> None:
        self._name = f"run-{len(list(root.glob('run-*.out')))}"
        self._root = root
        self._file("out").touch()
        self.home = root / f"{self._name}.home"
        given = (arguments, environment, trap, str(root / self._name))
        self._process = start(target=_work, args=given)
        self._process.start()

    def _file(self, kind: str) -> Path:
        return self._root / f"{self._name}.{kind}"

    def trapped(self) -> None:
        """Waits until the command sits in its trap."""
        wait_for(lambda: self._file("trap").exists() or not self._process.is_alive())
        assert self._process.is_alive(), self._file("err").read_text()

    def worker_is_gone(self) -> bool:
        """Whether the worker of a trapped command has ended."""
        stat = Path("/proc", self._file("trap").read_text(), "stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """For whatever a failed test has left running."""
        if self._process.is_alive():
            self.send(signal.SIGKILL)
            self._process.join()

    def end(self) -> Answer:
        self._process.join(120)
        code = self._process.exitcode
        assert code is not None
        return Answer(code, self._file("out").read_text(), self._file("err").read_text())


def wait_for(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Returns as soon as the condition holds."""
    deadline, pause = time.monotonic() + seconds, signal.sigtimedwait
    while not condition():
        assert time.monotonic() < deadline
        pause((), 0.02)  # time.sleep is switched off in these tests


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, with what it holds; folders end with a slash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name if path.is_file() else f"{name}/"] = (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )
    return found


# In processes of their own


def _work(arguments: list[str], environment: dict[str, str], trap: str | None, name: str) -> None:
    os.environ.update(environment)
    for number, kind in ((1, "out"), (2, "err")):
        file = os.open(f"{name}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    torch.set_num_threads(1)
    constants.HF_HUB_CACHE = f"{name}.home/hub"
    if trap:
        TRAPS[trap](Path(f"{name}.trap"))
    raise SystemExit(cli.main(arguments))


def _in_the_merge(mark: Path) -> None:
    """The worker is stopped as soon as it writes, and cannot clean up behind itself."""
    from bot.isolation.room import Apart

    honest = Apart._event

    def stopped(self: Apart, deadline: float | None) -> dict[str, Any]:
        event = honest(self, deadline)
        if event.get("begin", "").startswith("Merging"):
            os.kill(self.pid, signal.SIGSTOP)
            mark.write_text(str(self.pid))
            time.sleep(60)  # in the main thread, where signals arrive
        return event

    Apart._event = stopped  # type: ignore[method-assign]


def _after_two_shards(mark: Path) -> None:
    """A merge shard by shard stops when it is to send its third one."""
    from bot.clients.hub_parcel import Parcel

    honest, sent = Parcel.send, []

    def stopped(self: Parcel, path: Path, **given: Any) -> None:
        if len(sent) == 2:
            mark.write_text("0")
            time.sleep(60)
        honest(self, path, **given)
        sent.append(path)

    Parcel.send = stopped  # type: ignore[method-assign]


TRAPS = {"merge": _in_the_merge, "shards": _after_two_shards}


def _ask(
    auto: str, place: str, revision: str | None, batch: dict[str, torch.Tensor], token: str, target: str
) -> None:
    os.environ["HF_TOKEN"] = token
    torch.set_num_threads(1)
    import transformers

    model = getattr(transformers, auto).from_pretrained(
        place, revision=revision or "main", dtype=torch.float32
    )
    torch.save(logits(model.eval(), batch), target)
