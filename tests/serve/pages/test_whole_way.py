"""From the form to the published model: a browser, the service as a process of its own, the Hub, a tiny model."""

import re

import pytest
from huggingface_hub import HfApi, close_session
from playwright.sync_api import expect

from tests.e2e import hub, models
from tests.serve.process import serving
from tests.serve.test_whole_way import pushed_adapter

from .conftest import listening

__all__ = ["hub", "models"]
RULES = """
[server]
public_url = "http://127.0.0.1:{port}"
[defaults]
validation = "tensors"
reload = "never"
[ask]
users = ["alice"]
[pages]
strangers = "read-only"
oauth_client_id = "{client.client_id}"
oauth_client_secret = "{client.client_secret}"
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_somebody_signs_in_asks_for_a_merge_and_watches_it_be_published(tmp_path, hub, models, page):
    with listening() as at:
        port = at.getsockname()[1]
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES.format(port=port, client=hub.state.oauth))
    hub.sign_in("alice", redirect_uri=f"http://127.0.0.1:{port}/sign-in/callback")
    pushed_adapter(hub, models, "alice/by-form")
    environment = {
        **hub.environment("alice"),
        "HF_HOME": str(tmp_path / "home"),
        "MERGE_BOT_ISOLATION": "none",
        "OMP_NUM_THREADS": "1",
        "MERGE_BOT_SERVER__STATE": str(tmp_path / "state"),
    }
    with serving(tmp_path, "--config", str(rules), "--port", str(port), **environment) as there:
        page.goto(there.url)
        expect(page.get_by_text("Nothing public yet.")).to_be_visible()
        page.get_by_role("link", name="Sign in").first.click()
        page.get_by_role("button", name="Sign in with Hugging Face").click()
        page.get_by_role("link", name="New merge").first.click()
        page.get_by_label("Adapter", exact=True).fill("alice/by-form")
        page.get_by_label("Destination", exact=True).fill("alice/by-form-merged")
        page.get_by_label("If the repository has to be created, make it public.").check()
        page.get_by_role("button", name="Ask for it").click()
        page.wait_for_url(re.compile(r"/jobs/[0-9a-f]{32}"))
        expect(page.get_by_role("heading", name="Published")).to_be_visible(timeout=150_000)
        assert page.get_by_role("link", name="alice/by-form-merged").get_attribute("href").startswith(hub.url)
        assert page.locator(".checks tr.passed").count() >= 2
        assert page.locator("#log li").count() > 0
        job = page.url
        page.context.clear_cookies()
        page.goto(there.url)
        expect(page.locator("#jobs tbody tr")).to_contain_text("alice/by-form")
        page.goto(job)
        expect(page.get_by_role("heading", name="Checks")).to_be_visible()
        assert there.rss() < 250
    assert HfApi(endpoint=hub.url, token=False).file_exists("alice/by-form-merged", "model.safetensors")
    close_session()
