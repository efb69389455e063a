"""The figures of docs/large-models.md are the planner's, and a model of any size merges within its limits."""

import argparse

import pytest

from benchmarks import growth, scale
from benchmarks.large_models import MODELS, PAGE, moved, paid, planned, row
from benchmarks.sizes import SCALES, shards

SLOW = [pytest.param(name, marks=[] if "70B" in name else pytest.mark.slow) for name in MODELS]


@pytest.mark.parametrize("name", SLOW)
def test_the_page_says_what_the_planner_says(name):
    with planned(MODELS[name]) as plan:
        lines = PAGE.read_text(encoding="utf-8").splitlines()
        assert row(name, *moved(plan)) in lines
        assert row(name, *paid(plan)) in lines
        assert plan.way == "names"


def test_the_largest_scale_has_the_layout_of_llama_3_70b():
    found = shards(SCALES["141"])
    assert len(found) == 30
    assert sum(len(shard) for shard in found) == 723


def test_the_line_through_the_sizes_is_found_also_where_the_largest_is_a_hundred_times_the_smallest():
    runs = [{"size_bytes": size * 1e9, "seconds": 8 + 11 * size} for size in (1, 4, 16, 141)]
    assert growth.line(runs) == pytest.approx((8, 11, 1))
    bent = [*runs[:-1], {"size_bytes": 141e9, "seconds": 3000}]
    assert growth.line(bent)[2] < 0.9


@pytest.mark.slow
def test_a_merge_stays_within_its_limits(tmp_path):
    given = argparse.Namespace(
        size="tiny", scratch_limit="3MB", memory_limit=4.0, validate="tensors", line=None, dir=tmp_path
    )
    with scale.serving(given.size, tmp_path, tmp_path) as hub:
        figures = scale.measured(given, tmp_path, hub)
    assert figures["shard_by_shard"]
    assert figures["verdict"] == "passed"
    assert (
        0 < figures["peak_disk_bytes"] <= 3_000_000 < figures["size_bytes"] + figures["traffic"]["down_bytes"]
    )
    assert 0 < figures["peak_anonymous_bytes"] < 2e9
