"""Where a merge goes: what was asked for, or by the table of sizes in the configuration; refused where nothing fits."""

from __future__ import annotations

from bot.config.models import Config
from bot.errors import RefusedError
from bot.jobs.order import Order
from bot.jobs.runners.hf_jobs import Rental, objection
from bot.jobs.runners.rent import Terms
from bot.records import Plan
from bot.shard import Traffic
from bot.wording import size

GB = 10**9
HF_JOBS, LOCAL, POOL, SPREAD = "hf-jobs", "local", "pool:", "spread:"


def choose(order: Order, plan: Plan, *, config: Config) -> str:
    """`local`, `pool:QUEUE`, `hf-jobs`, or `spread:` before one of the first two for a make that goes shard by shard.

    `auto` takes the first line of `runners` that is large enough and has no reason against it; without lines, `local`.
    Raises RefusedError with the reason where none can do it.
    """
    runner = _chosen(order, plan, config=config)
    return f"{SPREAD}{runner}" if runner != HF_JOBS and _is_spread(order, plan, config=config) else runner


def _is_spread(order: Order, plan: Plan, *, config: Config) -> bool:
    """Whether it goes shard by shard: by size, as configured, or because scratch space has no room for all of it."""
    moved, there = plan.traffic, config.worker
    if moved is None or moved.obstacle or order.request.dry_run:
        return False
    if there.spread_above_gb is not None and plan.estimate.output_bytes > there.spread_above_gb * GB:
        return True
    space = there.scratch_bytes
    return space is not None and _least(moved, order, plan) <= space < plan.estimate.disk_bytes


def _least(moved: Traffic, order: Order, plan: Plan) -> int:
    """Bytes of scratch space for a make that goes shard by shard; where all of it is to be reloaded, it comes back."""
    return moved.least_bytes + (plan.estimate.output_bytes if order.request.reload == "always" else 0)


def _chosen(order: Order, plan: Plan, *, config: Config) -> str:
    if order.runner != "auto":
        if why := _against(order.runner, order, plan, config=config):
            raise why
        return order.runner
    last: RefusedError | None = None
    for line in config.runners:
        if line.up_to_gb is not None and plan.estimate.output_bytes > line.up_to_gb * GB:
            continue
        last = _against(line.runner, order, plan, config=config)
        if last is None:
            return line.runner
    if config.runners:
        raise last or _too_large(plan)
    if why := _against(LOCAL, order, plan, config=config):
        raise why
    return LOCAL


def rental(config: Config) -> Rental | None:
    """The Hub's machines as they may be rented; None where no image is set."""
    table = config.hf_jobs
    if table.image is None:
        return None
    terms = Terms(flavors=table.flavors, seconds=table.hours * 3600, dollars=table.max_cost)
    return Rental(namespace=table.namespace, image=table.image, terms=terms)


def _against(runner: str, order: Order, plan: Plan, *, config: Config) -> RefusedError | None:
    """Why it cannot be merged there, if that is so."""
    if runner == HF_JOBS:
        return objection(order.request, plan) if rental(config) else _no_image()
    if runner.startswith(POOL):
        return None if runner.removeprefix(POOL) in config.worker.queues else _no_queue(runner)
    if runner != LOCAL:
        return _unknown(runner)
    space, needed = config.worker.scratch_bytes, plan.estimate.disk_bytes
    if _is_spread(order, plan, config=config) and plan.traffic is not None:
        needed = _least(plan.traffic, order, plan)
    return _no_space(needed, space) if space is not None and needed > space else None


def _too_large(plan: Plan) -> RefusedError:
    return RefusedError(
        f"No runner takes a model of {size(plan.estimate.output_bytes)} here.",
        advice="Whoever runs this bot can add a line to `runners` in merge-bot.toml, without up_to_gb for all others.",
        code="runner-none",
    )


def _no_image() -> RefusedError:
    return RefusedError(
        "There are no rented machines here: no image is set for them.",
        advice="Set hf_jobs.image in merge-bot.toml to an image of merge-bot that the Hub may pull.",
        code="runner-none",
    )


def _no_queue(runner: str) -> RefusedError:
    return RefusedError(
        f"No worker takes merges from {runner} here.",
        advice="Name a queue of `worker.queues` in merge-bot.toml.",
        code="runner-none",
    )


def _no_space(needed: int, space: int) -> RefusedError:
    return RefusedError(
        f"The merge needs {size(needed)} of scratch space, and there is {size(space)} of it here.",
        advice="Raise worker.scratch_bytes in merge-bot.toml, or send large models to another runner.",
        code="runner-none",
    )


def _unknown(runner: str) -> RefusedError:
    return RefusedError(
        f"There is no runner {runner!r:.60} here.",
        advice="Name auto, local, pool:QUEUE or hf-jobs.",
        code="runner-none",
    )
