"""Which runner gets a merge, and which machine of the Hub: by sizes, prices and what was asked for."""

from dataclasses import replace

import pytest

from bot.clients.hub_jobs import Hardware
from bot.config.models import Config, HfJobs, RunnerBySize, Worker
from bot.errors import RefusedError
from bot.job import Job
from bot.jobs.order import Order, Origin
from bot.jobs.runners import rent
from bot.jobs.runners.choose import choose, rental
from bot.records import Estimate, Pinned
from bot.request import Destination, MergeRequest
from bot.shard import Traffic
from tests.publish.samples import a_plan

GB = 10**9
MACHINES = (
    Hardware(name="cpu-basic", memory=16 * GB, disk=50 * GB, dollars_per_minute=0.000167),
    Hardware(name="cpu-xl", memory=124 * GB, disk=1000 * GB, dollars_per_minute=0.0167),
    Hardware(name="t4-small", memory=15 * GB, disk=50 * GB, gpu=16 * GB, dollars_per_minute=0.00667),
    Hardware(name="l4x1", memory=30 * GB, disk=400 * GB, gpu=24 * GB, dollars_per_minute=0.01333),
    Hardware(name="a100-large", memory=142 * GB, disk=1000 * GB, gpu=80 * GB, dollars_per_minute=0.04167),
)
HUB = MergeRequest(adapter="alice/lora", destination=Destination(kind="repository", location="alice/merged"))
FULL = replace(HUB, validation="full")


def sized(gigabytes, *, memory=2.0, **changes):
    """A plan for a model of that size on the Hub."""
    output = int(gigabytes * GB)
    there = Pinned(kind="hub", location="acme/base", commit="b" * 40)
    return replace(
        a_plan(),
        adapter=replace(there, location="alice/lora"),
        base=there,
        further=(),
        initial=None,
        estimate=Estimate(
            download_bytes=output,
            output_bytes=output,
            disk_bytes=2 * output,
            memory_bytes=int(memory * GB),
        ),
        **changes,
    )


def order(runner="auto", request=HUB):
    return Order(
        job=Job(key="k", what="alice/lora"), request=request, origin=Origin(host="hub"), runner=runner
    )


def config(*lines, **tables):
    table = tuple(RunnerBySize(up_to_gb=most, runner=name) for most, name in lines)
    image = HfJobs(image="docker.io/acme/merge-bot:1", namespace="acme")
    return Config(**{"runners": table, "worker": Worker(queues=("gpu-24g",)), "hf_jobs": image, **tables})


@pytest.mark.parametrize(
    ("gigabytes", "where"), [(1, "local"), (2, "local"), (16, "pool:gpu-24g"), (140, "hf-jobs")]
)
def test_by_size_as_the_table_says(gigabytes, where):
    table = config((2, "local"), (30, "pool:gpu-24g"), (None, "hf-jobs"))
    assert choose(order(), sized(gigabytes), config=table) == where


def test_without_a_table_it_is_this_machine():
    assert choose(order(), sized(140), config=config()) == "local"


def test_a_line_that_cannot_do_it_is_passed_over():
    table = config((None, "hf-jobs"), (None, "pool:gpu-24g"))
    inside = replace(sized(1), adapter=Pinned(kind="folder", location="/tmp/x", commit="sha256:1"))
    assert choose(order(), inside, config=table) == "pool:gpu-24g"


@pytest.mark.parametrize(
    ("asked", "changed", "table", "says"),
    [
        ("auto", sized(50), config((30, "local")), "No runner takes a model of 50.0 GB here"),
        ("pool:big", sized(1), config(), "No worker takes merges from pool:big here"),
        ("hf-jobs", sized(1), config(hf_jobs=HfJobs()), "no image is set"),
        ("abacus", sized(1), config(), "no runner 'abacus'"),
        ("local", sized(1), config(worker=Worker(scratch_bytes=GB)), "needs 2.0 GB of scratch space"),
        (
            "hf-jobs",
            replace(sized(1), adapter=Pinned(kind="folder", location="/tmp/x", commit="sha256:1")),
            config(),
            "a folder of this machine or of a GitHub PR",
        ),
    ],
)
def test_where_nothing_fits_the_reason_is_said(asked, changed, table, says):
    with pytest.raises(RefusedError, match=says):
        choose(order(asked), changed, config=table)


def moved(**changes):
    known = Traffic(down_bytes=GB, up_bytes=GB, copied_bytes=0, least_bytes=GB, shards=3)
    return replace(known, **changes)


@pytest.mark.parametrize(
    ("runner", "worker", "where"),
    [
        ("auto", {"scratch_bytes": 2 * GB}, "spread:local"),  # of 10 GB, and 20 GB of disk
        ("pool:gpu-24g", {"scratch_bytes": 2 * GB}, "spread:pool:gpu-24g"),
        ("auto", {"scratch_bytes": 30 * GB}, "local"),
        ("auto", {}, "local"),
        ("auto", {"spread_above_gb": 9}, "spread:local"),
        ("auto", {"spread_above_gb": 10}, "local"),
        ("hf-jobs", {"spread_above_gb": 1}, "hf-jobs"),
    ],
)
def test_a_make_goes_shard_by_shard_where_space_or_the_configuration_says_so(runner, worker, where):
    table = config(worker=Worker(queues=("gpu-24g",), **worker))
    assert choose(order(runner), sized(10, traffic=moved()), config=table) == where


@pytest.mark.parametrize("traffic", [None, moved(obstacle="it is pickled"), moved(least_bytes=3 * GB)])
def test_what_cannot_go_shard_by_shard_is_refused_for_its_space(traffic):
    table = config(worker=Worker(scratch_bytes=2 * GB))
    with pytest.raises(RefusedError, match="of scratch space"):
        choose(order(), sized(10, traffic=traffic), config=table)


@pytest.mark.parametrize(("gigabytes", "fits"), [(10.9, False), (11, True)])
def test_where_all_of_it_is_to_be_reloaded_there_has_to_be_room_for_that(gigabytes, fits):
    """It comes back at the end: refused before anything is made, and not failed once it is published."""
    asked = order(request=replace(HUB, reload="always"))
    table = config(worker=Worker(scratch_bytes=int(gigabytes * GB)))
    if fits:
        assert choose(asked, sized(10, traffic=moved()), config=table) == "spread:local"
        return
    with pytest.raises(RefusedError, match="of scratch space"):
        choose(asked, sized(10, traffic=moved()), config=table)


def test_what_is_only_tried_is_not_spread():
    dry = replace(HUB, dry_run=True)
    table = config(worker=Worker(spread_above_gb=1))
    assert choose(order(request=dry), sized(10, traffic=moved()), config=table) == "local"


def test_what_is_handed_to_a_job_may_not_be_long():
    long = replace(HUB, text="x" * 200_000)
    with pytest.raises(RefusedError, match="too long to be handed to a job"):
        choose(order("hf-jobs", long), sized(1), config=config())


def test_the_configuration_says_what_may_be_rented():
    found = rental(config(hf_jobs=HfJobs(image="a/b:1", flavors=("l4x1",), hours=2, max_cost=3.5)))
    assert (found.namespace, found.image) == (None, "a/b:1")
    assert found.terms == rent.Terms(flavors=("l4x1",), seconds=7200, dollars=3.5)
    assert rental(config(hf_jobs=HfJobs())) is None


@pytest.mark.parametrize(
    ("gigabytes", "request_", "terms", "machine"),
    [
        (1, FULL, rent.Terms(), "cpu-basic"),  # nothing is cheaper, and it takes minutes
        (16, FULL, rent.Terms(), "cpu-basic"),  # 8 billion parameters: half an hour
        (70, FULL, rent.Terms(), "l4x1"),  # no disk for it elsewhere but on dearer ones
        (140, FULL, rent.Terms(seconds=3600 * 2), "l4x1"),
        (140, FULL, rent.Terms(flavors=("a100-large", "t4-small")), "a100-large"),
        (16, replace(FULL, device="cuda"), rent.Terms(), "t4-small"),
        (16, FULL, rent.Terms(seconds=1200), "t4-small"),  # the CPU takes longer than that
    ],
)
def test_the_cheapest_machine_that_is_large_and_quick_enough(gigabytes, request_, terms, machine):
    found = rent.offer(request_, sized(gigabytes), hardware=MACHINES, terms=terms)
    assert found.machine.name == machine
    assert found.seconds <= found.limit <= terms.seconds
    assert found.dollars == pytest.approx(found.seconds / 60 * found.machine.dollars_per_minute)


def test_what_may_be_paid_is_also_how_long_it_may_take():
    dear = rent.offer(FULL, sized(140), hardware=MACHINES, terms=rent.Terms(dollars=1.3))
    assert rent.price(dear.machine, dear.limit) <= 1.3
    assert dear.dollars <= 1.3


@pytest.mark.parametrize(
    ("gigabytes", "terms", "code"),
    [
        (2000, rent.Terms(), "job-no-machine"),
        (140, rent.Terms(flavors=("cpu-basic",)), "job-no-machine"),
        (140, rent.Terms(dollars=0.1), "job-too-dear"),
        (140, rent.Terms(seconds=600), "job-too-long"),
    ],
)
def test_too_large_too_dear_too_long(gigabytes, terms, code):
    with pytest.raises(RefusedError) as caught:
        rent.offer(FULL, sized(gigabytes), hardware=MACHINES, terms=terms)
    assert caught.value.code == code
