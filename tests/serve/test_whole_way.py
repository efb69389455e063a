"""From a push on the Hub to the published merge: real processes, the real client, a tiny model."""

import json
import sqlite3
import time
from contextlib import ExitStack

import httpx2
import pytest
from huggingface_hub import HfApi, close_session

from tests.e2e import BASE, hub, models
from tests.serve.process import SECRET, serving, started
from tests.serve.test_health import BEARER, figures

__all__ = ["hub", "models"]
RULES = """
[server]
drain_seconds = 5
[worker]
queues = ["tiny"]
[defaults]
destination = "alice/{name}-merged"
validation = "structure"
reload = "never"
runner = "%s"
[[watch]]
owners = ["alice"]
"""


@pytest.fixture
def environment(hub, tmp_path):
    yield {
        **hub.environment("alice"), "HF_HOME": str(tmp_path / "home"), "MERGE_BOT_TIMEOUT": "20",
        "MERGE_BOT_ISOLATION": "none", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    close_session()


def pushed_adapter(hub, models, name):
    config = json.loads((models.adapter / "adapter_config.json").read_text()) | {
        "base_model_name_or_path": BASE
    }
    weights = models.adapter / "adapter_model.safetensors"
    return hub.commit(name, {"adapter_config.json": json.dumps(config), weights.name: weights})


def written(state):
    """What the jobs have told of themselves."""
    with sqlite3.connect(state / "merge-bot.sqlite") as connection:
        told = connection.execute(
            "SELECT text FROM merge_bot_lines UNION ALL SELECT document FROM merge_bot_outcomes"
        )
        return [row[0] for row in told]


def until_there(api, repo_id, logs, *, state, file="model.safetensors", seconds=150):
    deadline = time.monotonic() + seconds
    while not (api.repo_exists(repo_id) and api.file_exists(repo_id, file)):
        if time.monotonic() > deadline:
            raise TimeoutError("\n".join([*(path.read_text() for path in logs), *written(state)]))
        time.sleep(0.2)
    return [commit.title for commit in api.list_repo_commits(repo_id)]


def until_published(server, *, seconds=60):
    """The figures, once the job has ended: what is published is there before that."""
    deadline = time.monotonic() + seconds
    while True:
        found = figures(httpx2.get(f"{server.url}/metrics", headers=BEARER, timeout=20).text)
        if found.get(("merge_bot_jobs", "published")) == 1:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "runner", "server", "workers"),
    [
        ("one-process", "auto", [], []),
        ("three-processes", "pool:tiny", ["--no-worker"], [[], ["--queue", "tiny"]]),
    ],
)
def test_a_push_is_merged_and_published_once(
    tmp_path, hub, models, environment, name, runner, server, workers
):
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES % runner)
    state = {"MERGE_BOT_SERVER__STATE": str(tmp_path / "state")}
    config = ["--config", str(rules)]
    with ExitStack() as stack:
        there = stack.enter_context(serving(tmp_path, *config, *server, **environment, **state))
        logs = [tmp_path / "log"]
        for number, flags in enumerate(workers):
            folder = tmp_path / f"worker-{number}"
            folder.mkdir()
            logs.append(folder / "log")
            worker = stack.enter_context(started(folder, "worker", *config, *flags, **environment, **state))
            assert "works as" in worker.stdout.readline(), logs[-1].read_text()
        api = HfApi(endpoint=hub.url, token=hub.token("alice"))
        hook = api.create_webhook(
            url=f"{there.url}/webhooks/hub", watched=[{"type": "user", "name": "alice"}], secret=SECRET
        )
        pushed_adapter(hub, models, f"alice/{name}")
        assert hub.deliveries[-1].status == 202
        titles = until_there(api, f"alice/{name}-merged", logs, state=tmp_path / "state")
        again = httpx2.post(
            f"{there.url}/webhooks/hub", json=hub.deliveries[0].payload, headers={"X-Webhook-Secret": SECRET}
        )
        assert again.status_code in {200, 202}
        time.sleep(2)
        assert [c.title for c in api.list_repo_commits(f"alice/{name}-merged")] == titles
        found = until_published(there)
        assert found["merge_bot_job_seconds", "published"] > 0
        assert found["merge_bot_job_bytes", "published"] > 0
        assert found["merge_bot_inbox_waiting",] == 0
        if not workers:
            assert found["merge_bot_stage_seconds_count", "merging"] >= 1
        # What was fetched lies in the service's own cache, and not in that of its user.
        assert {p.name for p in (tmp_path / "state" / "scratch" / ".cache").glob("models--*")} >= {
            "models--acme--tiny",
            f"models--alice--{name}",
        }
        assert not (tmp_path / "home" / "hub").exists()
        api.delete_webhook(hook.id)
        assert there.stop(within=15) == 0
    assert not [line for line in there.log() if "trace" in line]
