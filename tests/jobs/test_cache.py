"""What was fetched is kept as far as there is room: the least recently used goes first, and nothing that a job uses."""

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bot.clients.hub_cache import LEFT
from bot.errors import MergeError
from bot.jobs.cache import ALL, Cache
from bot.jobs.scratch import Needs, Scratch

KB = 1000
ONE, TWO = "1" * 40, "2" * 40
A = f"acme/a@{40 * 'a'}"


@pytest.fixture
def cache(tmp_path):
    return Cache(folder=tmp_path / "cache", most=50 * KB)


def fetched(cache, name, *, commit=None, size=20 * KB, hours=0.0):
    """As the Hub's client leaves it; used so many hours ago."""
    commit = commit or 40 * name[-1]
    place = cache.folder / f"models--{name.replace('/', '--')}"
    blob, link = (
        place / "blobs" / f"{name[-1]}{commit[0]}",
        place / "snapshots" / commit / "model.safetensors",
    )
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(bytes(size))
    link.symlink_to(Path("../../blobs") / blob.name)
    os.utime(blob, (time.time() - 3600 * hours,) * 2)
    return link


def there(*links):
    return [link.exists() for link in links]


def test_what_is_too_much_goes_and_the_least_recently_used_first(cache):
    a, b, c = (fetched(cache, f"acme/{n}", hours=h) for n, h in (("a", 1), ("b", 3), ("c", 2)))
    cache.tidy(keep=frozenset())
    assert there(a, b, c) == [True, False, True]
    assert not (cache.folder / "models--acme--b").exists()


def test_of_two_commits_the_older_one_goes_with_what_it_has_to_itself(cache):
    old = fetched(cache, "acme/a", commit=ONE, size=40 * KB, hours=2)
    new = fetched(cache, "acme/a", commit=TWO, size=40 * KB, hours=1)
    cache.tidy(keep=frozenset())
    assert there(old, new) == [False, True]
    assert len([*(cache.folder / "models--acme--a" / "blobs").iterdir()]) == 1


def test_nothing_goes_of_what_somebody_uses_nor_where_nobody_knows(cache):
    a, b = (fetched(cache, f"acme/{n}", size=60 * KB, hours=h) for n, h in (("a", 2), ("b", 1)))
    cache.tidy(keep=frozenset({ALL}))
    assert there(a, b) == [True, True]
    cache.tidy(keep=frozenset({A}))
    assert there(a, b) == [True, False]


def test_a_commit_that_a_repository_in_use_has_too_stays(cache):
    a, b = (fetched(cache, f"acme/{n}", commit=ONE, size=60 * KB, hours=h) for n, h in (("a", 1), ("b", 2)))
    cache.tidy(keep=frozenset({f"acme/b@{ONE}"}))
    assert there(b) == [True]
    assert cache.use(frozenset({f"acme/b@{ONE}"})) == 60 * KB
    assert there(a) == [True]  # the same hash: the client cannot tell them apart


def test_to_be_used_counts_where_reading_leaves_no_trace(cache):
    a, b, c = (fetched(cache, f"acme/{n}", hours=h) for n, h in (("a", 3), ("b", 2), ("c", 1)))
    assert cache.use(frozenset({A, f"acme/b@{TWO}"})) == 20 * KB
    cache.give(1, keep=frozenset())
    assert there(a, b, c) == [True, True, False]


def test_halves_that_nobody_goes_on_with_go(cache):
    fetched(cache, "acme/a")
    old, new = (cache.folder / "models--acme--a" / "blobs" / f"{n}.incomplete" for n in ("old", "new"))
    torn, lately = (cache.folder / f"models--acme--{n}" / "blobs" for n in ("torn", "lately"))
    for path in (torn, lately):
        path.mkdir(parents=True)
    for path in (old, new):
        path.write_bytes(b"half")
    for path in (old, torn.parent):
        os.utime(path, (time.time() - 2 * LEFT,) * 2)
    cache.tidy(keep=frozenset())
    assert there(old, new, torn, lately) == [False, True, False, True]


def test_a_cache_that_is_not_there_has_nothing_to_give(cache):
    cache.tidy(keep=frozenset())
    assert cache.use(frozenset({A})) == 0
    assert cache.room(1, keep=frozenset()) > 0


@pytest.fixture
def disk(monkeypatch):
    """A disk of so many bytes, on which nothing but files of the test lie."""

    def of(size, root):
        def usage(_):
            used = sum(p.lstat().st_size for p in root.rglob("*") if p.is_file() and not p.is_symlink())
            return SimpleNamespace(free=size - used)

        monkeypatch.setattr("shutil.disk_usage", usage)

    return of


async def held(space, name, needs, *, until=None):
    async with space.reserved(name, needs=needs, waits=lambda _: None, keeps=lambda: False) as (_, most):
        if until is not None:
            await until.wait()
        return most


def test_a_job_gets_the_room_that_the_cache_takes_and_not_what_it_has_there_already(tmp_path, disk):
    scratch = tmp_path / "scratch"
    cache = Cache(folder=scratch / ".cache")
    space = Scratch(scratch, spare=0, cache=cache)
    a, b, c = (fetched(cache, f"acme/{n}", hours=h) for n, h in (("a", 3), ("b", 2), ("c", 1)))
    disk(100 * KB, scratch)
    base = frozenset({A})
    # 40 kB are free, and 20 of the 65 are there: the second goes, and the first, older one is used.
    assert asyncio.run(held(space, "job", Needs(size=65 * KB, fetches=20 * KB, uses=base))) == 65 * KB
    assert there(a, b, c) == [True, False, True]
    with pytest.raises(MergeError) as error:
        asyncio.run(held(space, "job", Needs(size=150 * KB, uses=base)))
    assert (error.value.code, there(a, b, c)) == ("scratch-full", [True, False, False])


def test_a_cache_on_another_disk_must_have_room_for_what_is_fetched(tmp_path, disk, monkeypatch):
    cache = Cache(folder=tmp_path / "cache")
    space = Scratch(tmp_path / "scratch", spare=0, cache=cache)
    a, b = (fetched(cache, f"acme/{n}", hours=h) for n, h in (("a", 2), ("b", 1)))
    disk(50 * KB, tmp_path)
    monkeypatch.setattr(Cache, "shares_disk", lambda *_: False)
    assert asyncio.run(held(space, "job", Needs(size=0, fetches=25 * KB))) == 0
    assert there(a, b) == [False, True]
    with pytest.raises(MergeError, match="free on the cache's disk"):
        asyncio.run(held(space, "job", Needs(size=0, fetches=60 * KB)))


def test_what_a_job_uses_in_another_process_stays_until_it_is_over(tmp_path):
    cache = Cache(folder=tmp_path / "cache", most=0)
    one, other = (Scratch(tmp_path / "scratch", spare=0, cache=cache) for _ in range(2))
    a, b = (fetched(cache, f"acme/{n}") for n in "ab")

    async def both():
        done = asyncio.Event()
        task = asyncio.create_task(held(one, "job", Needs(size=KB, uses=frozenset({A})), until=done))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(other.sweep)
        assert there(a, b) == [True, False]
        done.set()
        await task
        await asyncio.to_thread(other.sweep)

    asyncio.run(both())
    assert there(a) == [False]


def test_a_folder_that_is_none_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MergeError) as error:
            Cache(folder=place).prepare()
        assert error.value.code == "cache-unusable"
        assert str(place) in error.value.sentence
