"""Which machine of the Hub to rent for a merge, for how long, and what it will cost: figures of the plan and prices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bot.clients.hub_jobs import Hardware
from bot.errors import RefusedError
from bot.records import Plan
from bot.request import MergeRequest, Way
from bot.wording import duration, size

# How often the weights are gone through: held against the Hub, read, written, sent, and looked at by the checks.
PASSES: dict[Way, float] = {"none": 4, "structure": 4, "tensors": 5, "full": 7}
WITH_GPU, WITHOUT = 200e6, 80e6  # bytes per second of one pass, low: an estimate that is kept is worth more
START = 120.0  # seconds that a machine takes to fetch the image and import torch
SPARE_DISK, SPARE_MEMORY = 4 * 10**9, 2 * 10**9
AGAIN = 10**9  # bytes of a published model that `--reload auto` still fetches
PATIENCE, LEAST = 4, 1800.0  # times the estimate, and seconds, after which something is wrong


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What may be rented: `flavors` by name (none: all), for how many seconds at most, at what cost (None: any)."""

    flavors: tuple[str, ...] = ()
    seconds: float = 6 * 3600.0
    dollars: float | None = None


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A machine for a merge: for how many seconds, at what cost, and after how many seconds it is given up."""

    machine: Hardware
    seconds: float
    dollars: float
    limit: int


def price(machine: Hardware, seconds: float) -> float:
    """US dollars for so long."""
    return seconds / 60 * machine.dollars_per_minute


def limit(machine: Hardware, terms: Terms) -> float:
    """The seconds that time and money allow."""
    if terms.dollars is None or machine.dollars_per_minute <= 0:
        return terms.seconds
    return min(terms.seconds, 60 * terms.dollars / machine.dollars_per_minute)


def offer(request: MergeRequest, plan: Plan, *, hardware: Iterable[Hardware], terms: Terms) -> Offer:
    """The cheapest machine that is large enough. Raises RefusedError when none is, or it costs or takes too much.

    When the time that is paid for is over, the Hub ends the job: so the cost is kept, whoever watches.
    """
    known = [one for one in hardware if not terms.flavors or one.name in terms.flavors]
    fitting = [one for one in known if fits(one, request, plan)]
    if not fitting:
        raise _none(plan, known=known, terms=terms)
    offers = sorted(
        (_offer(one, request, plan, terms=terms) for one in fitting), key=lambda o: (o.dollars, o.seconds)
    )
    in_time = [one for one in offers if one.seconds <= terms.seconds]
    if not in_time:
        quickest = min(one.seconds for one in offers)
        raise RefusedError(
            f"The merge would take about {duration(quickest)} on a rented machine, and {duration(terms.seconds)} is"
            " allowed.",
            advice="Raise hf_jobs.hours, or allow faster machines in hf_jobs.flavors.",
            code="job-too-long",
        )
    best = in_time[0]
    if terms.dollars is not None and best.dollars > terms.dollars:
        raise RefusedError(
            f"The merge would cost about ${best.dollars:.2f} on {best.machine.name}, and ${terms.dollars:.2f} is"
            " allowed.",
            advice="Raise the maximum cost (hf_jobs.max_cost), or ask for fewer checks with --validate.",
            code="job-too-dear",
        )
    return best


def fits(machine: Hardware, request: MergeRequest, plan: Plan) -> bool:
    """Whether the machine has the disk, the memory and, where CUDA is asked for, the GPU."""
    if request.device == "cuda" and not machine.gpu:
        return False
    memory, disk = needs(request, plan)
    gpu = plan.estimate.memory_bytes if machine.gpu and request.device != "cpu" else 0
    return machine.memory >= memory and machine.disk >= disk and machine.gpu >= gpu


def needs(request: MergeRequest, plan: Plan) -> tuple[int, int]:
    """Bytes of memory and of disk. What the Hub has is mounted, and takes no disk."""
    estimate = plan.estimate
    again = {"never": 0, "always": estimate.output_bytes, "auto": min(AGAIN, estimate.output_bytes)}
    disk = estimate.disk_bytes - estimate.download_bytes + again[request.reload] + SPARE_DISK
    return estimate.memory_bytes * 3 // 2 + SPARE_MEMORY, disk


def _offer(machine: Hardware, request: MergeRequest, plan: Plan, *, terms: Terms) -> Offer:
    gpu = machine.gpu and request.device != "cpu"
    moved = plan.estimate.output_bytes * PASSES[request.validation] * (2 if request.thorough else 1)
    seconds = START + moved / (WITH_GPU if gpu else WITHOUT)
    most = min(limit(machine, terms), max(LEAST, PATIENCE * seconds))
    return Offer(machine=machine, seconds=seconds, dollars=price(machine, seconds), limit=max(1, int(most)))


def _none(plan: Plan, *, known: list[Hardware], terms: Terms) -> RefusedError:
    named = f" of {', '.join(terms.flavors)}" if terms.flavors else ""
    return RefusedError(
        f"None{named} of the Hub's {len(known)} machines is large enough for a model of"
        f" {size(plan.estimate.output_bytes)}.",
        advice="Allow larger machines in hf_jobs.flavors, or merge on a machine of your own.",
        code="job-no-machine",
    )
