"""Whether an output is the merge: `python -m benchmarks.verify BASE ADAPTER MERGED` prints one JSON document.

The reference is computed here, in float64, and shares no code with the bot. The first and the last layer are looked at:
every tensor that the adapter changes there, and as many that it leaves alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

ROWS = 512
ROUNDOFF = 2.0**-24  # of float32
SVD = 2.0**-15  # what a singular value decomposition in float32 may be off, relative to the largest weight
FRACTION = 2.0**-7  # bfloat16's distance between two numbers, relative to the power of two below


@dataclass(kw_only=True)
class Verdict:
    """`worst`: the largest error as a part of what arithmetic in float32 and one rounding to bfloat16 may be off.

    `beyond`: elements that are further off. `misrounded`: elements that are not the number nearest to the reference.
    """

    changed: int = 0
    untouched: int = 0
    elements: int = 0
    misrounded: int = 0
    beyond: int = 0
    worst: float = 0.0
    effect: float = 0.0  # the mean change relative to the mean weight
    problem: str = ""

    @property
    def right(self) -> bool:
        return not self.problem and not self.beyond and bool(self.changed)


class Folder:
    """All tensors of a folder's safetensors files."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        files = [
            stack.enter_context(safe_open(p, framework="pt")) for p in sorted(path.glob("*.safetensors"))
        ]
        self.of = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - it is no dict

    def __getitem__(self, name: str) -> Tensor:
        return self.of[name].get_tensor(name)


def verify(base: Path, adapter: Path, merged: Path) -> Verdict:
    """Compares the merged folder with the reference."""
    verdict = Verdict()
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    scale = config["lora_alpha"] / config["r"]
    with ExitStack() as stack:
        before, after, parts = (Folder(p, stack) for p in (base, merged, adapter))
        if before.of.keys() != after.of.keys():
            verdict.problem = (
                f"other tensors than the base's: {sorted(before.of.keys() ^ after.of.keys())[:3]}"
            )
            return verdict
        pissa = config["r"] if config["init_lora_weights"] == "pissa" else 0
        for name in _sample(before.of):
            key = f"base_model.model.{name.removesuffix('.weight')}."
            old, new = before[name], after[name]
            if (old.shape, old.dtype) != (new.shape, new.dtype):
                verdict.problem = f"{name} has another shape or dtype than the base's"
            elif f"{key}lora_A.weight" in parts.of:
                start = _principal(old, rank=pissa) if pissa else None
                _changed(verdict, old, new, factors=_factors(parts, key), scale=scale, start=start)
            elif torch.equal(old, new):
                verdict.untouched += 1
            else:
                verdict.problem = f"{name} differs, and the adapter does not touch it"
    return verdict


def _sample(names: dict[str, object]) -> list[str]:
    layers = sorted({int(n.split(".")[2]) for n in names if n.startswith("model.layers.")})
    ends = tuple(f"model.layers.{i}." for i in (layers[0], layers[-1]))
    return sorted(n for n in names if n.startswith(ends) or not n.startswith("model.layers."))


def _factors(parts: Folder, key: str) -> tuple[Tensor, Tensor, Tensor | None]:
    magnitude = f"{key}lora_magnitude_vector"
    found = parts[magnitude].double() if magnitude in parts.of else None
    return parts[f"{key}lora_A.weight"].double(), parts[f"{key}lora_B.weight"].double(), found


def _principal(weight: Tensor, *, rank: int) -> Tensor:
    """The part of the largest singular values, which PiSSA (arXiv:2404.02948) starts from."""
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def _changed(
    verdict: Verdict,
    old: Tensor,
    new: Tensor,
    *,
    factors: tuple[Tensor, Tensor, Tensor | None],
    scale: float,
    start: Tensor | None,
) -> None:
    """`start`: what training took out of the weight before its first step."""
    a, b, magnitude = factors
    change = size = 0.0
    for rows in _blocks(len(old)):
        weight, found = old[rows].double(), new[rows].double()
        exact = weight + scale * (b[rows] @ a)
        terms = weight.abs() + abs(scale) * (b[rows].abs() @ a.abs())
        if magnitude is not None:
            factor = magnitude[rows, None] / exact.norm(dim=1, keepdim=True)
            exact, terms = exact * factor, terms * factor.abs()
        slack = 2 * (len(a) + 32) * ROUNDOFF * terms
        if start is not None:
            exact = exact - start[rows]
            slack += SVD * old.abs().max().double()
        _count(verdict, found, exact=exact, slack=slack)
        change, size = change + (exact - weight).abs().mean().item(), size + weight.abs().mean().item()
    verdict.changed += 1
    verdict.effect = max(verdict.effect, change / size)


def _count(verdict: Verdict, found: Tensor, *, exact: Tensor, slack: Tensor) -> None:
    """`slack`: what arithmetic in float32 may be off before it is rounded."""
    bound = torch.exp2(exact.abs().log2().floor()).mul_(FRACTION / 2) + slack
    error = (found - exact).abs()
    verdict.elements += found.numel()
    verdict.misrounded += int((found != exact.bfloat16().double()).sum())
    verdict.beyond += int((~(error <= bound)).sum())  # so that NaN is beyond
    verdict.worst = max(verdict.worst, (error / bound).max().item())


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(first, first + ROWS) for first in range(0, rows, ROWS))


if __name__ == "__main__":
    outcome = verify(*map(Path, sys.argv[1:]))
    print(json.dumps({**asdict(outcome), "right": outcome.right}))
