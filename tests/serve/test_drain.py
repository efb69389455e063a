"""A stop in the middle of work that takes longer than it waits: another executor goes on at once."""

import signal
import time

import pytest

from tests.e2e import hub, models
from tests.hub.faults import Fault
from tests.jobs.site import Site
from tests.serve.process import serving

__all__ = ["hub", "models"]
DRAIN = 12


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_takes_longer_than_the_drain_is_handed_back_and_gone_on_with_at_once(tmp_path, hub):
    state, other = tmp_path / "state", tmp_path / "other"
    for folder in (state, other):
        folder.mkdir()
    site = Site(f"sqlite:///{state / 'merge-bot.sqlite'}", hub=hub, root=tmp_path)
    given = {key: site.environment[key] for key in ("HF_HOME", "MERGE_BOT_ISOLATION", "OMP_NUM_THREADS")}
    given |= {**hub.environment("alice"), "MERGE_BOT_TIMEOUT": "200"}
    given |= {"MERGE_BOT_SERVER__DRAIN_SECONDS": str(DRAIN), "MERGE_BOT_DATABASE_URL": site.url}
    hub.faults.add(Fault(match="api/models/alice/tiny-lora", hang=25, times=1))
    try:
        with serving(tmp_path, **given) as server:
            id_ = site.ask(to="alice/drained")
            site.reaches(id_, "planning")
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(DRAIN + 5) == 0
            assert time.monotonic() - began < DRAIN + 1
            assert "not handed back" not in (tmp_path / "log").read_text()
        drained = site.office.entry(id_)
        assert drained.state == "running"
        with serving(other, **given):  # the lease of the first would lapse after 120 seconds
            site.until(lambda: site.office.entry(id_).worker != drained.worker, seconds=15)
            entry = site.ended(id_)
        assert (entry.state, entry.attempt) == ("published", 1), site.logs()
    finally:
        hub.clear_faults()
        site.close()
