"""The proof layer by layer: what the live adapter's layer answers, the plain layer answers with the merged weights.

Each is asked the same random activations, in float32. That goes through PEFT's forward pass, as in training, where the
merge and the float64 reference go through formulas and PEFT's `merge`: a mistake that those two share shows here. One
layer is in memory at a time, so models that fit nowhere can be asked.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bot.errors import MergeBotError
from bot.progress import Progress
from bot.records import Check
from bot.validate.formula import ARITHMETIC
from bot.validate.parity import ROUNDINGS
from bot.validate.quiet import quiet, sentence
from bot.weights.memory import available
from bot.weights.reader import TORCH_DTYPES
from bot.wording import counted, few

COUNT = 32  # activations
ROWS = 256  # of an embedding
NUMBER = 4  # bytes, in float32
COPIES = 4  # of a layer: base, delta, merged, and what an init makes of them
NEAR = 0.5  # how far from once the delta may be there; a missing one is 1 off
TOLD = 0.25  # of the bound: an adapter that moves the answer by less leaves no sign of how often it is there
SURE = 1.0  # the same for one that rescales or replaces weights: all its changes may be rounded in the same direction
MOST = 4  # layers that are told one by one
NAMES = {kind: name for name, kind in TORCH_DTYPES.items()}


class Layer(Protocol):
    """One layer of base + adapter, and the plain one inside of it: see `bot.merge.live`."""

    name: str
    plain: nn.Module
    parameter: str | None

    @property
    def additive(self) -> bool:
        """Whether the adapter adds something that has nothing to do with how the weight is rounded."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The rows that it changes, where those are few and known."""

    def live(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The plain layer's answer with the base's weights, where it has them, and the adapter's."""

    def weights(self) -> dict[str, Tensor]:
        """The merged weights, as stored."""

    def merged(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The plain layer's answer with the merged weights."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a layer's answers gave.

    `difference`: of the merged layer's answer to the live one's, relative to that; `bound`: what it may be. `times`:
    how often the adapter's delta is in the answer; None where it is too small to tell.
    """

    name: str
    difference: float
    bound: float
    dtypes: str
    times: float | None

    @property
    def share(self) -> float:
        """The difference as a share of what is allowed."""
        share = self.difference / self.bound
        return math.inf if math.isnan(share) else share

    @property
    def right(self) -> bool:
        """Whether rounding explains the difference. What is not finite is not right."""
        return self.difference <= self.bound and (self.times is None or abs(self.times - 1) <= NEAR)

    def __str__(self) -> str:
        if not math.isfinite(self.difference):
            return f"{self.name}: its answer is not finite, or should be zero"
        much = f"off by {self.difference:.2g} of its answer where {self.dtypes} allows {self.bound:.2g}"
        told = "" if self.times is None else f", the delta is there {self.times:.2f} times"
        return f"{self.name}: {much}{told}"


@dataclass
class Answers:
    """The layers that were asked, those that cannot be with merged weights, and why others were not asked at all."""

    asked: list[Asked] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)


def check_modules(layers: Callable[[], Iterable[Layer]], *, rounded_more: bool, progress: Progress) -> Check:
    """Check `modules`; skipped where no layer can be asked.

    `layers` raises what it likes where base and adapter make no live layers. `rounded_more`: the merge may have rounded
    as PEFT does.
    """
    found = Answers()
    try:
        ask(layers, found=found, rounded_more=rounded_more, progress=progress)
    except Exception as error:  # noqa: BLE001  # PEFT and strangers' files raise what they like
        why = error.sentence if isinstance(error, MergeBotError) else f"{sentence(error)}."
        detail = f"There are no live layers to ask. {why}"
        return Check(name="modules", verdict="skipped", figure="", detail=detail)
    return check_of(found)


def ask(
    layers: Callable[[], Iterable[Layer]], *, found: Answers, rounded_more: bool, progress: Progress
) -> None:
    """Asks every layer, one at a time. Raises what `layers` raises."""
    with quiet():
        every = list(layers())
        progress.begin("Asking layers", total=sum(NUMBER * _numbers(layer) for layer in every))
        for layer in every:
            _ask(layer, found=found, slack=ROUNDINGS if rounded_more else 1)
            progress.advance(NUMBER * _numbers(layer))
    progress.end()


def _numbers(layer: Layer) -> int:
    own = layer.plain._parameters
    return sum(p.numel() for kind, p in own.items() if p is not None and layer.parameter in (None, kind))


def _ask(layer: Layer, *, found: Answers, slack: float) -> None:
    need = COPIES * NUMBER * _numbers(layer)
    if need > available():
        found.left.setdefault(f"memory for {need / 2**30:.1f} GiB is missing", []).append(layer.name)
        return
    try:
        x = activations(layer)
        base, live = layer.live(x)
    except Exception as error:  # noqa: BLE001  # modules of any kind, which want any input
        found.left.setdefault(sentence(error), []).append(layer.name)
        return
    try:
        weights = layer.weights()
        merged = layer.merged(x, weights)
        told = TOLD if layer.additive else SURE
        found.asked.append(
            _compared(layer.name, merged, live=live, base=base, weights=weights, slack=slack, told=told)
        )
    except Exception as error:  # noqa: BLE001  # shapes that do not fit, weights that are not there
        found.broken.append(f"{layer.name}: {sentence(error)}")


def activations(layer: Layer) -> Tensor:
    """Random input for a layer, the same at each call: what its name says, and nothing of the weights.

    Raises TypeError for a kind of module whose input is not known.
    """
    plain: Any = layer.plain
    seed = int.from_bytes(hashlib.sha256(layer.name.encode()).digest()[:7])
    draw = torch.Generator().manual_seed(seed)
    weight = getattr(plain, layer.parameter or "weight", None)
    if layer.parameter is not None and weight is not None:
        return torch.randn((*weight.shape[:-2], COUNT, weight.shape[-2]), generator=draw)
    if isinstance(plain, nn.Embedding):
        rows = torch.randint(plain.num_embeddings, (1, ROWS), generator=draw)
        ends = torch.tensor([[0, plain.num_embeddings - 1, *layer.tokens[:ROWS]]])
        return torch.cat((rows, ends), dim=1)
    if isinstance(plain, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        reach = [2 + d * (k - 1) + 1 for k, d in zip(plain.kernel_size, plain.dilation, strict=True)]
        return torch.randn((COUNT, plain.in_channels, *reach), generator=draw)
    if weight is None or weight.ndim not in (1, 2) or any(True for _ in plain.children()):
        raise TypeError(f"what a {type(plain).__name__} is asked is not known here")
    width = weight.shape[0] if isinstance(plain, Conv1D) else weight.shape[-1]
    return torch.randn((1, COUNT, width), generator=draw)


def bound(weights: Iterable[Tensor], *, slack: float) -> float:
    """How far the merged layer's answer may be from the live one's, relative to it.

    One rounding takes at most half of a dtype's epsilon of each weight. For activations of independent entries the
    mean square of an answer is the weights' own, so it takes no more of the answer, in the mean; twice as much is
    allowed because there are 32 of them, not infinitely many. In float16 small weights have fewer digits: half of the
    smallest step counts against their size. To this comes what float32 arithmetic may lose, as for single tensors.
    """
    return slack * max(_rounding(weight) for weight in weights) + ARITHMETIC


def _rounding(weight: Tensor) -> float:
    kind = torch.finfo(weight.dtype)
    if weight.dtype != torch.float16:
        return kind.eps
    size = float(weight.float().square().mean().sqrt())
    return kind.eps + (kind.smallest_normal * kind.eps / size if size else 0.0)


def _compared(
    name: str,
    merged: Tensor,
    *,
    live: Tensor,
    base: Tensor | None,
    weights: Mapping[str, Tensor],
    slack: float,
    told: float,
) -> Asked:
    if merged.shape != live.shape:
        raise ValueError(f"it answers with {list(merged.shape)} numbers instead of {list(live.shape)}")
    allowed = bound(weights.values(), slack=slack)
    size, error = float(live.double().norm()), float((merged.double() - live.double()).norm())
    times = None
    if base is not None:
        delta, change = (live.double() - base.double()).flatten(), (merged.double() - base.double()).flatten()
        if float(delta.norm()) > told * allowed * size:
            times = float(delta @ change / (delta @ delta))
    return Asked(
        name=name,
        difference=error / size if size else math.inf if error else 0.0,
        bound=allowed,
        dtypes=" and ".join(sorted({NAMES.get(w.dtype, str(w.dtype)) for w in weights.values()})),
        times=times,
    )


def check_of(found: Answers) -> Check:
    """Check `modules`, of all layers that were asked."""
    wrong = sorted((a for a in found.asked if not a.right), key=lambda a: -a.share)
    problems = [*map(str, wrong), *found.broken]
    total = len(found.asked) + len(found.broken)
    left = "".join(f" Not asked: {few(names)} ({reason})." for reason, names in sorted(found.left.items()))
    if not total:
        return Check(name="modules", verdict="skipped", figure="", detail=f"No layer was asked.{left}")
    figure = f"{total - len(problems):,} of {counted(total, 'layer')} alike"
    if found.asked:
        worst = max(found.asked, key=lambda a: (a.share, a.name))
        figure += f"; worst off by {worst.difference:.2g}, {worst.share:.0%} of what is allowed"
    if problems:
        more = f" And {len(problems) - MOST} more." if len(problems) > MOST else ""
        detail = ". ".join(problems[:MOST]) + "." + more + left
        return Check(name="modules", verdict="failed", figure=figure, detail=detail)
    detail = (
        "To the same random activations, every live layer of the adapter and the plain layer with the merged weights"
        f" give the same answer, but for rounding.{left}"
    )
    return Check(name="modules", verdict="passed", figure=figure, detail=detail)
