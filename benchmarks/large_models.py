"""The table of docs/large-models.md, computed from plans: `python -m benchmarks.large_models`. No weight is read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.sizes import SCALES, Experts, Scale
from benchmarks.synthetic import ADAPTER, USER, fill
from bot import pipeline
from bot.plan.shardwise import RATE, seconds
from bot.progress import Silent
from bot.records import Plan
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from bot.wording import duration, size
from tests.hub.server import LoopbackHub

PAGE = Path(__file__).parents[1] / "docs" / "large-models.md"
MODELS: dict[str, Scale | Experts] = {
    "Llama 3 8B": SCALES["16"],
    "Llama 3 70B": SCALES["141"],
    "DeepSeek V3 in bfloat16, adapter on the attention": Experts(),
}
HEAD = (
    "| Model | Merged | Shards | Down | Up | Copied by the Hub | Least scratch | At 100 MB/s each way"
    " | At $1 an hour |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


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


def row(name: str, plan: Plan) -> str:
    """One line of the table."""
    moved = plan.traffic
    assert moved is not None
    taken = seconds(moved, down=RATE, up=RATE)
    cells = [
        name,
        size(plan.estimate.output_bytes),
        str(moved.shards),
        size(moved.down_bytes),
        size(moved.up_bytes),
        size(moved.copied_bytes) if moved.copied_bytes else "nothing",
        size(moved.least_bytes),
        duration(taken),
        f"${taken / 3600:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The whole table."""
    rows = []
    for name, model in MODELS.items():
        with planned(model) as plan:
            rows.append(row(name, plan))
    return "\n".join([HEAD, *rows])


if __name__ == "__main__":
    print(table())
