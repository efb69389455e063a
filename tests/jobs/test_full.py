"""The disk of the database is full for a while, really: SQLITE_FULL for DBOS's own writes as for ours."""

import os
import subprocess
import threading
import time

import pytest
from huggingface_hub import HfApi, close_session
from sqlalchemy import text

from bot.errors import HostError
from bot.jobs.order import ACTIVE
from tests.e2e import hub, models
from tests.hub.faults import Fault
from tests.jobs.filling import fill
from tests.jobs.site import Site
from tests.jobs.test_killed import Killed, check

__all__ = ["hub", "models"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FULL = 25.0  # seconds


@pytest.fixture
def small(tmp_path):
    """A disk of its own for the database."""
    if os.getuid() != 0:
        pytest.skip("only root may mount")
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_full_for_a_while_loses_nothing_and_does_nothing_twice(tmp_path, hub, small):
    """Four plans are at work and four wait: their steps end, and others are to begin, while nothing can be written."""
    site = Site(f"sqlite:///{small / 'bot.db'}", hub=hub, root=tmp_path)
    hub.faults.add(Fault(match="api/models/alice/tiny-lora", hang=8, times=4))
    try:
        ids = [site.ask(verb="plan", to=f"alice/full-{n}") for n in range(8)]
        worker = site.start(lease=120)
        site.until(lambda: sum(site.office.entry(i).now.stage == "planning" for i in ids) >= 4)
        fill(small)
        began = time.monotonic()
        with pytest.raises(HostError) as caught:
            site.office.write(ids[0], ["x" * 4000] * 50)
        assert caught.value.code == "database-full"
        time.sleep(FULL - (time.monotonic() - began))
        assert any(site.office.entry(i).state in ACTIVE for i in ids)
        (small / "ballast").unlink()
        site.ended(*ids)
        entries = [site.office.entry(i) for i in ids]
        ended = {(entry.state, entry.attempt, entry.outcome.failure) for entry in entries}
        assert ended == {("skipped", 1, None)}, site.logs()
        assert all(entry.outcome.plan for entry in entries)
        assert worker.poll() is None
        asked = text("SELECT name, status, count(*) FROM workflow_status GROUP BY name, status")
        said = lambda: site.database.read(lambda c: [tuple(row) for row in c.execute(asked)])  # noqa: E731
        site.until(lambda: sorted(said()) == [("answer", "SUCCESS", 8), ("job", "SUCCESS", 8)], seconds=90)
        assert site.leftovers() == []
    finally:
        hub.clear_faults()
        site.close()


@pytest.mark.parametrize("step", ["begin", "finish"])
def test_a_disk_that_is_full_when_dbos_writes_down_a_step_keeps_no_job_from_its_one_end(
    tmp_path, hub, small, step
):
    """It is filled before the step's first effect, after its last, and when it has just been recorded."""
    site = Killed(f"sqlite:///{small / 'bot.db'}", hub=hub, root=tmp_path, step=step)
    site.api = HfApi(endpoint=hub.url, token=hub.token("alice"))
    site.environment["FILLS"] = str(small)
    order = site.order(f"full-{step.replace('_', '-')}", kind="repository")
    try:
        site.office.enqueue(order)
        site.begin()
        ended, freed = threading.Event(), []

        def free():
            while not ended.wait(0.2):
                if (small / "ballast").exists():
                    time.sleep(6)
                    (small / "ballast").unlink()
                    freed.append(len(site.killed_at))

        thread = threading.Thread(target=free)
        thread.start()
        try:
            check(site, order, cancelled=False)
        finally:
            ended.set()
            thread.join()
        assert {"before", "after", "recorded"} <= set(site.killed_at)
        assert len(freed) >= 2  # the first two may be one where nothing is written between them
        assert len(site.workers) == 1
        said = (site.root / "worker-0.log").read_text()
        assert "Exception encountered in asynchronous workflow" in said  # DBOS's words: it could not write
    finally:
        site.close()
        close_session()
