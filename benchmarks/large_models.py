"""The tables of docs/large-models.md, computed from plans: `python -m benchmarks.large_models`. No weight is read."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.sizes import SCALES, Experts, Scale
from benchmarks.synthetic import ADAPTER, USER, fill
from bot import pipeline
from bot.plan.shardwise import seconds
from bot.progress import Silent
from bot.records import Plan
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from bot.shard import Rates
from bot.wording import duration, size
from tests.hub.server import LoopbackHub

PAGE = Path(__file__).parents[1] / "docs" / "large-models.md"
MODELS: dict[str, Scale | Experts] = {
    "Llama 3 8B": SCALES["16"],
    "Llama 3 70B": SCALES["141"],
    "DeepSeek V3 in bfloat16, adapter on the attention": Experts(),
}
# Dollars a minute, of which each that has begun is billed. Sources, of November 2026:
# https://docs.github.com/en/billing/reference/actions-runner-pricing and https://huggingface.co/docs/hub/jobs-pricing
PRICES = {
    "Hosted runner, public repository": 0.0,
    "Hosted runner, private": 0.006,
    "Jobs `cpu-upgrade`": 0.03 / 60,
    "Jobs `a10g-small`": 1.0 / 60,
    "Own GPU, 400 W at $0.30 a kWh": 0.4 * 0.3 / 60,
}
RATES = Rates(down=100_000_000, up=100_000_000)
MOVED = ["Merged", "Shards", "Down", "Up", "Copied by the Hub", "Least scratch", "At 100 MB/s each way"]


@contextmanager
def planned(model: Scale | Experts) -> Iterator[Plan]:
    """The plan for an adapter of that model."""
    with tempfile.TemporaryDirectory() as place, LoopbackHub(Path(place)) as hub:
        fill(hub, model, seed=0)
        request = MergeRequest(
            adapter=ADAPTER,
            destination=Destination(kind="repository", location=f"{USER}/merged"),
        )
        settings = Settings(endpoint=hub.url, read_token=hub.token(USER), isolation="none")
        yield pipeline.plan(request, settings=replace(settings, timeout=60.0), progress=Silent())


def moved(plan: Plan) -> list[str]:
    """What it moves: cells of the first table."""
    sizes = plan.traffic
    assert sizes is not None
    return [
        size(plan.estimate.output_bytes),
        str(sizes.shards),
        size(sizes.down_bytes),
        size(sizes.up_bytes),
        size(sizes.copied_bytes) if sizes.copied_bytes else "nothing",
        size(sizes.least_bytes),
        duration(seconds(sizes, rates=RATES)),
    ]


def paid(plan: Plan) -> list[str]:
    """What the machine costs for that long: cells of the second table."""
    assert plan.traffic is not None
    minutes = math.ceil(seconds(plan.traffic, rates=RATES) / 60)
    return [_dollars(minutes * price) for price in PRICES.values()]


def _dollars(amount: float) -> str:
    if amount == 0:
        return "nothing"
    return f"${amount:.2f}" if amount >= 0.01 else "under $0.01"


def row(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def tables() -> str:
    """Both of them."""
    first, second = (["Model", *MOVED], []), (["Model", *PRICES], [])
    for name, model in MODELS.items():
        with planned(model) as plan:
            first[1].append(row(name, *moved(plan)))
            second[1].append(row(name, *paid(plan)))
    return "\n\n".join(
        "\n".join([row(*head), "|" + "---|" * len(head), *rows]) for head, rows in (first, second)
    )


if __name__ == "__main__":
    print(tables())
