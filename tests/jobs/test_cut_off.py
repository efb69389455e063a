"""Two executors on one database. One is cut off in the middle, the other takes over, and the first comes back."""

import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.e2e import hub, models
from tests.hub.faults import Fault
from tests.jobs.site import Site
from tests.jobs.wire import Wire

__all__ = ["hub", "models"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LEASE = 20.0


def check(site, id_, back):
    """The second has published once; the first hears of it when it is `back`, stops, and publishes nothing."""
    first, second = site.workers
    to = site.office.entry(id_).order.request.destination.location
    site.until(lambda: site.office.entry(id_).worker == site.name(second))
    entry = site.ended(id_)
    assert (entry.state, entry.attempt, entry.worker) == ("published", 1, site.name(second)), site.logs()
    back()
    assert first.wait(90) == 0, site.logs()
    time.sleep(2)
    assert second.poll() is None
    assert len(site.commits(to)) == 2  # the Hub's first, and one of ours
    assert site.office.entry(id_) == entry


@pytest.mark.parametrize("stage", ["merging", "publishing"])
def test_who_was_paused_while_another_took_over_publishes_nothing(tmp_path, hub, stage):
    """In the second case a commit of the first is on its way when it is paused, and arrives."""
    to = f"alice/paused-{stage}"
    hub.faults.add(Fault(match=f"{to}/commit", hang=3, times=1))
    site = Site(f"sqlite:///{tmp_path / 'bot.db'}", hub=hub, root=tmp_path)
    try:
        first = site.start("one", lease=LEASE)
        id_ = site.ask(to=to)
        site.reaches(id_, stage)
        first.send_signal(signal.SIGSTOP)
        site.start("two", lease=LEASE)
        check(site, id_, lambda: first.send_signal(signal.SIGCONT))
    finally:
        hub.clear_faults()
        site.close()


@pytest.mark.parametrize("silent", [False, True])
def test_who_was_cut_off_from_the_database_publishes_nothing(tmp_path, hub, postgres, silent):
    url = postgres.fresh(f"cut_{silent}".lower())
    site = Site(url, hub=hub, root=tmp_path)
    with TemporaryDirectory(dir="/tmp") as folder:  # the path of a socket may have 107 characters
        wire = Wire(postgres.folder, Path(folder))
        try:
            site.url = url.replace(f"host={postgres.folder}", f"host={folder}")
            site.start("one", lease=LEASE)
            site.url = url
            id_ = site.ask(to=f"alice/cut-{silent}")
            site.reaches(id_, "merging")
            wire.cut(silent=silent)
            site.start("two", lease=LEASE)
            check(site, id_, wire.mend)
        finally:
            wire.close()
            site.close()
