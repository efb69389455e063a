"""The assembly line: how it overlaps, that it keeps within its space, and how it stops."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.shard import MergedShard, Portion
from bot.shardwise import line
from bot.shardwise.budget import Budget


def portions(sizes):
    return [
        Portion(file=f"{n}", needs=(f"{n}",), fetched_bytes=first, written_bytes=second)
        for n, (first, second) in enumerate(sizes)
    ]


class Disk:
    """What lies there, as the stages see it."""

    def __init__(self, *, seconds=0.0, broken=None):
        self.now = self.peak = 0
        self.seconds, self.broken = seconds, broken
        self.order = []
        self._lock = threading.Lock()

    def _add(self, size):
        with self._lock:
            self.now += size
            self.peak = max(self.peak, self.now)

    def _work(self, stage, portion):
        self.order.append((stage, portion.file))
        if self.broken == (stage, portion.file):
            raise RuntimeError(stage)
        time.sleep(self.seconds)

    def fetch(self, portion):
        self._add(portion.fetched_bytes)
        self._work("fetch", portion)

    def merge(self, portion):
        self._add(portion.written_bytes)
        self._work("merge", portion)
        return MergedShard(file=portion.file, sha256="", size=portion.written_bytes)

    def drop(self, portion):
        self._add(-portion.fetched_bytes)

    def send(self, portion, done):
        assert done.file == portion.file
        self._work("send", portion)
        self._add(-portion.written_bytes)

    def stages(self):
        return line.Stages(fetch=self.fetch, merge=self.merge, drop=self.drop, send=self.send)


@given(
    sizes=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=12), spare=st.integers(0, 120)
)
def test_it_ends_within_its_space_whatever_the_sizes(sizes, spare):
    disk = Disk()
    total = max((first + second for first, second in sizes), default=0) + spare
    line.run(portions(sizes), stages=disk.stages(), budget=Budget(total))
    assert disk.now == 0
    assert disk.peak <= total
    for stage in ("fetch", "merge", "send"):
        assert [name for kind, name in disk.order if kind == stage] == [str(n) for n in range(len(sizes))]


def test_with_space_for_two_shards_three_stages_work_at_a_time():
    disk = Disk(seconds=0.05)
    times = line.run(portions([(10, 10)] * 10), stages=disk.stages(), budget=Budget(40))
    assert times.overlap > 2
    tight = line.run(portions([(10, 10)] * 10), stages=disk.stages(), budget=Budget(20))
    assert 1 < tight.overlap < times.overlap


@pytest.mark.parametrize("stage", ["fetch", "merge", "send"])
def test_an_error_of_any_stage_stops_the_others_and_is_raised(stage):
    disk = Disk(broken=(stage, "3"))
    with pytest.raises(RuntimeError, match=stage):
        line.run(portions([(10, 10)] * 40), stages=disk.stages(), budget=Budget(30))
    assert len(disk.order) < 40
    before = len(disk.order)
    time.sleep(0.05)
    assert len(disk.order) == before  # nobody works any more
