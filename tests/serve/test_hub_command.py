"""A command in a discussion on the Hub, carried out by the service: webhook, queue, merge, one comment."""

import time

import pytest
from huggingface_hub import HfApi

from bot.publish.marker import find_job
from tests.e2e import hub, models
from tests.serve.process import SECRET, serving
from tests.serve.test_whole_way import RULES, environment, pushed_adapter

__all__ = ["environment", "hub", "models"]
LORA, OUT = "alice/asked-for", "alice/asked-for-merged"


def answers(api):
    events = api.get_discussion_details(LORA, 1).events
    return [e.content for e in events if e.type == "comment" and e.author == "merge-bot"]


def until(condition, *, seconds=150):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_command_ends_in_one_comment(tmp_path, hub, models, environment):
    token = hub.add_user("merge-bot", orgs=("alice", "acme"))
    (tmp_path / "rules.toml").write_text(RULES % "auto")
    pushed_adapter(hub, models, LORA)
    api = HfApi(endpoint=hub.url, token=hub.token("alice"))
    more = {**environment, "HF_TOKEN": token, "MERGE_BOT_SERVER__STATE": str(tmp_path / "state")}
    with serving(tmp_path, "--config", str(tmp_path / "rules.toml"), **more) as there:
        ours = HfApi(endpoint=hub.url, token=token)
        watched = [{"type": "user", "name": "alice"}]
        hook = ours.create_webhook(url=f"{there.url}/webhooks/hub", watched=watched, secret=SECRET)
        api.create_discussion(LORA, "Please", description="/merge")
        until(lambda: any((mark := find_job(text)) and mark.state == "published" for text in answers(api)))
        (said,) = answers(api)
        assert f"{hub.url}/{OUT}" in said
        assert api.file_exists(OUT, "model.safetensors")
        api.comment_discussion(LORA, 1, "/merge status")
        until(lambda: len(answers(api)) == 2)
        assert "has ended: published" in answers(api)[1]
        ours.delete_webhook(hook.id)
        assert there.stop(within=15) == 0
