"""Jobs through the real flow: a worker process, real merges of tiny models, a Hub on this machine, and kill -9."""

import pytest

from tests.e2e import hub, models
from tests.jobs.site import Site

__all__ = ["hub", "models"]


@pytest.fixture
def site(tmp_path, hub):
    hub.clear_requests()
    made = Site(f"sqlite:///{tmp_path / 'bot.db'}", hub=hub, root=tmp_path)
    yield made
    made.close()
    hub.clear_faults()


def test_a_job_is_planned_merged_published_and_leaves_nothing(site):
    site.start()
    entry = site.ended(site.ask(to="alice/flow-1"))
    assert entry.state == "published", site.logs()
    assert entry.outcome.publication.commit
    assert entry.outcome.report.verdict == "passed"
    assert entry.runner == "local" and entry.make and entry.worker
    assert len(site.commits("alice/flow-1")) == 2  # its first, and ours
    assert site.leftovers() == []
    stages = [line.text for line in site.office.lines(entry.order.job.key)]
    assert any(text.startswith("Merging") for text in stages)
