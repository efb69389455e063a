"""`merge-bot watch`: what was pushed since the last look becomes a job, once; with the real client and database."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from bot import cli, connect, pipeline, watch
from bot.clients.hub_lister import asked_to_wait
from bot.config.models import Config
from bot.errors import HostError
from bot.job import Outcome
from bot.jobs.inbox import Delivery
from bot.jobs.ledger import Ledger
from bot.jobs.migration import opened
from bot.jobs.places import Places
from bot.jobs.pushed import orders
from bot.jobs.seen import Memory
from bot.progress import Silent
from bot.publish.marker import marker
from bot.settings import Settings
from tests.clients.hub_fixtures import hub  # noqa: F401 - a fixture
from tests.tiny.adapters import edit_config

HERE = Path(__file__).parents[1]
BASE = "org/base"
KEY = "0123456789abcdef" * 2
ACME = {"watch": [{"owners": ["acme"]}], "polling": {"seconds": 10}}


def adapter(folder: str = "", *, weights: str = "one") -> dict[str, str | bytes]:
    """The files of an adapter as they are listed; nothing here reads the weights."""
    start = f"{folder}/" if folder else ""
    text = json.dumps({"peft_type": "LORA", "base_model_name_or_path": BASE})
    return {f"{start}adapter_config.json": text, f"{start}adapter_model.safetensors": weights.encode()}


class Clockwork(threading.Event):
    """A stop that does not wait: it notes for how long it was asked to, and is set after so many pauses."""

    def __init__(self, pauses: int = 1) -> None:
        super().__init__()
        self.waited: list[float] = []
        self._pauses = pauses

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0.0)
        if len(self.waited) >= self._pauses:
            self.set()
        return self.is_set()


@dataclass
class Bench:
    """A watcher on a Hub, its database, and what it said."""

    hub: object
    file: Path
    said: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    attempts: int = 3

    def __post_init__(self) -> None:
        self.database = opened(f"sqlite:///{self.file}")
        self.ledger = Ledger(self.database)
        self.settings = Settings(
            endpoint=self.hub.url, attempts=self.attempts, read_token=self.hub.token("alice")
        )

    def watcher(self, config: dict | None = None, *, dry: bool = False, seen: object = None) -> watch.Watcher:
        return watch.Watcher(
            config=Config(**(config or ACME)),
            settings=self.settings,
            lister=connect.lister(self.settings),
            desk=self.ledger,
            seen=seen or Memory(self.database),
            say=self.said.append,
            stop=self.stop,
            dry=dry,
        )

    def look(self, config: dict | None = None, **more) -> list[str]:
        """What came of one look: adapters, as they are called."""
        return [order.job.what for order in self.watcher(config).look(**more)]

    @property
    def jobs(self) -> list[str]:
        return sorted(entry.order.job.what for entry in self.ledger.entries())


@pytest.fixture
def bench(hub, tmp_path):  # noqa: F811
    made = Bench(hub, tmp_path / "bot.sqlite")
    yield made
    made.database.close()


@pytest.fixture
def watched(bench):
    """One who has looked once, when acme had one adapter."""
    bench.hub.commit("acme/old", adapter())
    assert bench.look() == []
    bench.hub.clear_requests()
    return bench


# what is new


def test_the_first_look_merges_nothing_that_was_there(bench):
    for name in ("a", "b", "c"):
        bench.hub.commit(f"acme/{name}", adapter())
    assert bench.look() == []
    assert bench.jobs == []
    assert bench.said == ["acme has 3 models; what is pushed from now on is merged."]
    paths = {record.path for record in bench.hub.requests}
    assert paths == {"/api/models"}  # no repository was looked into


def test_a_push_becomes_an_order_pinned_to_its_commit(watched):
    commit = watched.hub.commit("acme/new", adapter())
    (order,) = watched.watcher().look()
    assert (order.origin.host, order.origin.repository) == ("watch", "acme/new")
    assert order.request.adapter == f"acme/new@{commit}"
    assert order.request.destination is not None
    assert (order.request.destination.location, order.request.destination.public) == (
        "acme/new-merged",
        False,
    )
    assert watched.jobs == ["acme/new"]
    assert watched.said[-1] == "acme/new is queued."
    assert watched.look() == []


def test_a_known_repository_is_new_again_when_its_adapter_changes(watched):
    watched.hub.commit("acme/old", adapter(weights="two"))
    assert watched.look() == ["acme/old"]
    watched.hub.commit("acme/old", {"README.md": "# Words"})
    assert watched.look() == []
    watched.hub.commit("acme/old", adapter("runs/final"))
    assert watched.look() == ["acme/old:runs/final"]
    destinations = {e.order.request.destination.location for e in watched.ledger.entries()}
    assert destinations == {"acme/old-merged", "acme/old-merged-runs-final"}


def test_where_nothing_has_changed_one_request_with_a_tag_says_so(watched):
    assert watched.look() == []
    assert [(r.path, r.status) for r in watched.hub.requests] == [("/api/models", 304)]


def test_since_says_what_is_merged_at_the_first_look(bench):
    bench.hub.commit("acme/old", adapter())
    time.sleep(1.1)
    then = datetime.now(UTC)
    bench.hub.commit("acme/new", adapter())
    config = {**ACME, "polling": {"seconds": 10, "since": then}}
    assert bench.look(config) == ["acme/new"]
    assert bench.said[-1].startswith("acme has 2 models; what is pushed after ")
    assert bench.look(config) == []
    assert bench.look(since=then - timedelta(days=1)) == ["acme/old"]  # asked for, though it was seen


def test_what_a_stopped_watcher_missed_is_found_by_the_next(watched):
    watched.hub.commit("acme/missed", adapter())
    again = Bench(watched.hub, watched.file)
    assert again.look() == ["acme/missed"]
    again.database.close()


def test_what_a_webhook_has_brought_in_is_not_begun_again(watched):
    commit = watched.hub.commit("acme/new", adapter())
    (by_webhook,) = orders("acme/new", commit, config=Config(**ACME), settings=watched.settings)
    entry = watched.ledger.enqueue(by_webhook)
    watched.ledger.end(entry.order.job.key, 1, Outcome(ended="published"))
    assert watched.look() == []
    again = watched.ledger.entry(by_webhook.job.key)
    assert again is not None
    assert (again.state, again.attempt) == ("published", 1)


def test_what_webhooks_have_brought_in_is_not_begun_again_at_a_later_commit(watched, tmp_path):
    seen = Memory(watched.database)
    places = Places(
        config=Config(**ACME), settings=watched.settings, office=watched.ledger, folder=tmp_path, seen=seen
    )
    commits = [seen.get("model", "acme/old")]

    def push(files: dict[str, str | bytes], name: str = "acme/old") -> tuple[str, ...]:
        commits.append(watched.hub.commit(name, files))
        moved = {"ref": "refs/heads/main", "oldSha": commits[-2], "newSha": commits[-1]}
        payload = {
            "event": {"action": "update", "scope": "repo.content"},
            "repo": {"type": "model", "name": name, "headSha": commits[-1]},
            "updatedRefs": [moved],
        }
        return places.hub(Delivery(key=commits[-1], source="hub", body=json.dumps(payload).encode()))

    assert "is queued" in push(adapter(weights="two"))[0]
    assert "new or changed" in push({"README.md": "# Words"})[0]
    assert watched.look() == []
    # A new repository: its first commit holds no adapter.
    commits.append(watched.hub.commit("acme/new", {".gitattributes": ""}))
    push(adapter(), "acme/new")
    push({"README.md": "# Words"}, "acme/new")
    assert watched.look() == []
    # A push that no webhook told of is found though others came after it.
    commits.append(watched.hub.commit("acme/old", adapter(weights="missed")))
    push({"README.md": "# More words"})
    assert watched.look() == ["acme/old"]


# what is left alone


def test_hub_prs_and_other_branches_are_not_looked_at(watched):
    api = HfApi(endpoint=watched.hub.url, token=watched.hub.token("alice"))

    def changes() -> list[CommitOperationAdd]:
        return [CommitOperationAdd("adapter_model.safetensors", b"two")]

    api.create_commit("acme/old", changes(), commit_message="Propose", create_pr=True)
    api.create_branch("acme/old", branch="try")
    api.create_commit("acme/old", changes(), commit_message="Try", revision="try")
    assert watched.look() == []
    assert watched.jobs == []


def test_what_we_published_is_left_alone(watched):
    watched.hub.commit(
        "acme/old-merged", {"config.json": "{}", "model.safetensors": b"x", "README.md": marker(KEY)}
    )
    watched.hub.commit("acme/both", {**adapter(), "README.md": f"# Merged\n{marker(KEY)}"})
    assert watched.look() == []
    assert watched.jobs == []


def test_rules_and_the_repositorys_own_file_hold(watched):
    config = {
        "watch": [
            {"repositories": ["acme/secret-*"], "enabled": False},
            {"repositories": ["acme/*-lora"], "destination": "acme/{name}-x", "runner": "hf-jobs"},
        ],
        "repository_file": {"opt_in": ["acme/*"]},
    }
    for name in ("secret-lora", "a-lora", "b-lora", "plain", "asked"):
        files = adapter()
        if name == "b-lora":
            files["merge-bot.yml"] = "merge: false"
        if name == "asked":
            files["merge-bot.yml"] = "merge: true\nvalidation: full\n"
        watched.hub.commit(f"acme/{name}", files)
    assert sorted(watched.look(config)) == ["acme/a-lora", "acme/asked"]
    found = {e.order.job.what: e.order for e in watched.ledger.entries()}
    assert found["acme/a-lora"].runner == "hf-jobs"
    assert found["acme/a-lora"].request.destination.location == "acme/a-lora-x"


def test_a_file_of_rules_that_is_wrong_is_said_once_and_stops_nobody_else(watched):
    watched.hub.commit("acme/wrong", {**adapter(), "merge-bot.yml": "mrge: true"})
    watched.hub.commit("acme/right", adapter())
    assert watched.look() == ["acme/right"]
    said = [line for line in watched.said if line.startswith("acme/wrong: ")]
    assert len(said) == 1
    assert "Did you mean `merge`?" in said[0]
    watched.hub.commit("acme/right", {"README.md": "x"})
    watched.look()
    assert sum(line.startswith("acme/wrong: ") for line in watched.said) == 1


def test_a_repository_that_is_gone_by_then_is_no_trouble(watched, monkeypatch):
    watched.hub.commit("acme/gone", adapter())
    watched.hub.commit("acme/there", adapter())
    page = watched.watcher().lister.page("acme")
    watched.hub.delete_repo("acme/gone")
    watcher = watched.watcher()
    monkeypatch.setattr(watcher.lister, "page", lambda *_, **__: page)
    assert [order.job.what for order in watcher.look()] == ["acme/there"]


def test_a_dry_run_says_what_would_be_merged_and_remembers_nothing(watched):
    watched.hub.commit("acme/new", adapter())
    assert [order.job.what for order in watched.watcher(dry=True).look()] == ["acme/new"]
    assert watched.said[-1] == "acme/new would be merged."
    assert watched.jobs == []
    assert watched.look() == ["acme/new"]


def test_private_repositories_are_seen_by_the_token_that_may(watched):
    watched.hub.commit("acme/hidden", adapter(), private=True)
    watched.settings = Settings(endpoint=watched.hub.url, attempts=2, read_token=watched.hub.token("bob"))
    assert watched.look() == []
    watched.settings = Settings(endpoint=watched.hub.url, attempts=2, read_token=watched.hub.token("alice"))
    assert watched.look() == ["acme/hidden"]


# owners and pages


def test_the_owners_are_those_that_rules_name():
    config = Config(
        watch=[
            {"owners": ["one"], "repositories": ["two/*", "three-*/*", "!four/x"]},
            {"owners": ["off"], "enabled": False},
            {"repositories": ["one/x"]},
        ],
        repository_file={"opt_in": ["five/*", "*/*"]},
    )
    assert watch.owners(config) == ("one", "two", "five")
    assert watch.unlisted(config) == ("three-*/*", "*/*")


def test_all_pages_are_read_at_first_and_then_those_with_changes(bench):
    bench.hub.state.list_page = 2
    for number in range(7):
        bench.hub.commit(f"acme/r{number}", adapter())
    bench.look()
    assert bench.said == ["acme has 7 models; what is pushed from now on is merged."]
    bench.hub.clear_requests()
    bench.hub.commit("acme/r0", adapter(weights="two"))
    assert bench.look() == ["acme/r0"]
    assert sum(r.path == "/api/models" for r in bench.hub.requests) == 2  # the second has nothing new
    for number in range(5):
        bench.hub.commit(f"acme/r{number}", adapter(weights="three"))
    assert sorted(bench.look()) == [f"acme/r{number}" for number in range(5)]


def test_a_page_of_another_host_is_not_asked_for(bench):
    """A link that leads elsewhere would take our token there."""
    lister = connect.lister(bench.settings)
    assert lister._within(f"{bench.hub.url}/api/models?cursor=2")
    assert lister._within("https://elsewhere.example/api/models") == ""
    assert lister._within(f"{bench.hub.url}.elsewhere.example/api/models") == ""


# a Hub or a database at fault


def test_the_hubs_limit_is_waited_out(watched, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    watched.hub.commit("acme/new", adapter())
    limits = {"RateLimit": '"api";r=0;t=55', "Retry-After": "7"}
    watched.hub.fault("/api/models?", status=429, headers=limits, times=1)
    assert watched.look() == ["acme/new"]
    assert slept == [55.0]


def test_a_limit_that_lasts_long_is_an_error_that_says_how_long(watched):
    watched.hub.fault("/api/models?", status=429, headers={"Retry-After": "900"})
    with pytest.raises(HostError, match="rate limit") as raised:
        watched.look()
    assert asked_to_wait(raised.value) == 900
    assert len(watched.hub.requests) == 1


def test_watching_waits_for_as_long_as_the_hub_says_and_goes_on(watched):
    watched.hub.fault("/api/models?", status=429, headers={"Retry-After": "900"}, times=1)
    watched.hub.commit("acme/new", adapter())
    watched.stop = Clockwork(pauses=2)
    watched.watcher().watch()
    limited, usual = watched.stop.waited
    assert 900 <= limited <= 990
    assert 10 <= usual <= 11
    assert watched.jobs == ["acme/new"]


def test_one_look_is_tried_again_until_the_hub_answers(watched):
    watched.hub.fault("/api/models?", status=429, headers={"Retry-After": "900"}, times=2)
    watched.hub.commit("acme/new", adapter())
    watched.stop = Clockwork(pauses=9)
    watched.watcher().watch(once=True)
    assert [pause >= 900 for pause in watched.stop.waited] == [True, True]
    assert watched.jobs == ["acme/new"]


def test_watching_looks_less_often_while_the_hub_is_down(watched, monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    watched.hub.fault("/api/models?", status=503)
    watched.stop = Clockwork(pauses=12)
    watched.watcher().watch()
    waited = watched.stop.waited
    assert all(10 * 2 ** (n + 1) <= pause <= 11 * 2 ** (n + 1) for n, pause in enumerate(waited[:5]))
    assert 3600 <= waited[-1] <= 3960
    assert len(watched.said) == 1 + 12


def test_what_a_failure_cut_off_is_found_by_the_next_look(watched, monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    for name in ("a", "b", "c"):
        watched.hub.commit(f"acme/{name}", adapter())
    watched.hub.fault("/api/models/acme/b", status=500)
    with pytest.raises(HostError):
        watched.look()
    assert watched.jobs == ["acme/c"]  # the newest comes first
    watched.hub.clear_faults()
    assert sorted(watched.look()) == ["acme/a", "acme/b"]
    assert watched.jobs == ["acme/a", "acme/b", "acme/c"]


@pytest.mark.parametrize(
    "content", ["[1, null, {}]", '[{"id": "acme/x", "sha": "abc", "lastModified": "never"}]']
)
def test_entries_that_make_no_sense_are_passed_over(bench, monkeypatch, content):
    lister = connect.lister(bench.settings)
    answer = type(
        "Answer", (), {"status_code": 200, "headers": {}, "links": {}, "json": lambda _: json.loads(content)}
    )
    monkeypatch.setattr(lister, "_get", lambda *_, **__: answer())
    assert lister.page("acme").models == ()


def test_a_hub_that_takes_no_more_for_now_is_left_alone_until_it_does(bench, monkeypatch):
    bench.stop = Clockwork(pauses=99)
    watcher = bench.watcher()
    more = {"next": {"url": f"{bench.hub.url}/api/models?cursor=1"}}
    pages = [({"ratelimit": '"api";r=0;t=9'}, more), ({"ratelimit": '"api";r=3;t=9'}, more), ({}, {})]
    answers = iter(
        type("Answer", (), {"status_code": 200, "headers": headers, "links": links, "json": lambda _: []})()
        for headers, links in pages
    )
    monkeypatch.setattr(watcher.lister, "_get", lambda *_, **__: next(answers))
    watcher.look()
    assert bench.stop.waited == [9.0, 0.0]


def test_what_was_seen_outlives_the_process(tmp_path):
    for value in ("one", "two"):
        database = opened(f"sqlite:///{tmp_path / 'bot.sqlite'}")
        Memory(database).put("model", "acme/x", value)
        database.close()
    database = opened(f"sqlite:///{tmp_path / 'bot.sqlite'}")
    assert Memory(database).get("model", "acme/x") == "two"
    assert Memory(database).get("owner", "acme/x") is None
    database.close()


# the whole way


@pytest.mark.slow
def test_what_was_found_is_merged_and_its_result_is_nothing_new(watched, adapter_on):
    base, folder = adapter_on("llama", {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4})
    edit_config(folder, base_model_name_or_path=BASE)
    watched.hub.add_user("org")
    watched.hub.commit(BASE, base)
    watched.hub.commit("acme/new", folder)
    (order,) = watched.watcher().look()
    settings = replace(watched.settings, write_token=watched.settings.read_token, isolation="none")
    plan, report, publication = pipeline.run(order.request, settings=settings, progress=Silent())
    assert report is not None
    assert report.verdict == "passed"
    assert publication is not None
    assert publication.destination.location == "acme/new-merged"
    assert plan.adapters[0].commit in order.request.adapter
    assert "model.safetensors" in watched.hub.files("acme/new-merged")
    assert watched.look() == []


# the command


def merge_bot(*words, cwd, hub, **more):  # noqa: F811
    environment = {
        **os.environ,
        **hub.environment("alice"),
        "PYTHONPATH": str(HERE),
        "HF_HOME": str(cwd / "home"),
    }
    command = [sys.executable, "-m", "bot", *words]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )


def finished(*words, cwd, hub):  # noqa: F811
    process = merge_bot(*words, cwd=cwd, hub=hub)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.slow
def test_the_command_looks_once_and_queues(hub, tmp_path):  # noqa: F811
    (tmp_path / "merge-bot.toml").write_text(
        '[[watch]]\nowners = ["acme"]\n[[watch]]\nrepositories = ["x-*/y"]\n'
    )
    hub.commit("acme/old", adapter())
    code, _, err = finished("watch", "--dry-run", "--since", "2020-01-01", cwd=tmp_path, hub=hub)
    assert code == 0
    assert "acme/old would be merged." in err
    assert "x-*/y is for webhooks alone" in err
    assert not (tmp_path / "state").exists()
    assert finished("watch", "--once", cwd=tmp_path, hub=hub)[0] == 0
    hub.commit("acme/new", adapter())
    code, _, err = finished("watch", "--once", cwd=tmp_path, hub=hub)
    assert code == 0
    assert "acme/new is queued." in err
    assert "acme/old" not in err
    database = opened(f"sqlite:///{tmp_path / 'state' / 'merge-bot.sqlite'}", create=False)
    assert [entry.order.job.what for entry in Ledger(database).entries()] == ["acme/new"]
    database.close()


def test_the_command_ends_well_when_it_is_told_to(hub, tmp_path):  # noqa: F811
    (tmp_path / "merge-bot.toml").write_text('[[watch]]\nowners = ["acme"]\n')
    process = merge_bot("watch", cwd=tmp_path, hub=hub)
    assert any("acme has 0 models" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("words", [["--since", "tomorrow"], ["--config", "nowhere.toml"]])
def test_what_cannot_be_is_said(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["watch", "--once", *words]) == 2
    assert words[1] in capsys.readouterr().err
