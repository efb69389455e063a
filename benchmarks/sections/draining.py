"""Jobs that are queued: tiny adapters merged and published by two processes, each exactly once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.sections.place import Figure, Place, Section
from bot.jobs.order import ACTIVE
from tests.e2e import ADAPTER, BASE, _named
from tests.hub.server import LoopbackHub
from tests.jobs.site import Site
from tests.serve.process import serving
from tests.tiny.adapters import LORA_VARIANTS, save_adapter
from tests.tiny.models import save_base

QUICK, PROCESSES = 10, 2
PATIENCE = 60.0  # seconds for one job


def measure(place: Place) -> list[Figure]:
    count = QUICK if place.quick else place.jobs
    with _hub(place) as hub:
        site = Site(f"sqlite:///{place.folder / 'bot.db'}", hub=hub, root=place.folder)
        try:
            return _drained(site, count)
        finally:
            site.close()


def _drained(site: Site, count: int) -> list[Figure]:
    """Two servers, as people run them: each step in a process of its own, and the merge behind its walls."""
    ids = [site.ask(to=f"alice/drained-{n}") for n in range(count)]
    environment = site.environment | {"MERGE_BOT_ISOLATION": "process", "MERGE_BOT_DATABASE_URL": site.url}
    with ExitStack() as stack:
        for n in range(PROCESSES):
            folder = site.root / f"server-{n}"
            folder.mkdir()
            stack.enter_context(serving(folder, **environment))
        begun = time.perf_counter()
        site.until(lambda: not _active(site), seconds=PATIENCE * count, every=1.0)
        took = time.perf_counter() - begun
    published = sum(site.office.entry(id_).state == "published" for id_ in ids)
    commits = [len(site.commits(f"alice/drained-{n}")) for n in range(count)]  # the Hub's first, and ours
    return [
        Figure(name="jobs", value=count, unit=""),
        Figure(name="a job", value=took / count, unit="s"),
        Figure(name="not published", value=count - published, unit="", most=0),
        Figure(name="published not exactly once", value=sum(n != 2 for n in commits), unit="", most=0),
    ]


def _active(site: Site) -> int:
    counts = site.office.counts()
    return sum(counts[state] for state in ACTIVE)


@contextmanager
def _hub(place: Place) -> Iterator[LoopbackHub]:
    base = save_base(place.folder / "base", "llama")
    adapter = save_adapter(
        place.folder / "adapter", base, config=LORA_VARIANTS["plain"], architecture="llama"
    )
    (adapter / "README.md").unlink()  # PEFT writes one that names the base again
    hub = LoopbackHub(place.folder / "hub").start()
    try:
        hub.add_user("alice", orgs=("acme",))
        hub.commit(BASE, base)
        hub.commit(ADAPTER, _named(adapter, BASE))
        yield hub
    finally:
        hub.stop()


SECTION = Section(title=f"Draining a queue with {PROCESSES} processes", measure=measure)
