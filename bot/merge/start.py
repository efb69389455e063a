"""Whether base and adapter fit together where the adapter's start changed the base: told from the weights.

With Δ₀ = s·B₀A₀, the share ⟨W, Δ₀⟩ / ‖Δ₀‖² says how often the start is in W. PiSSA and CorDA take singular directions
out of the base, so it is 1 in the original and 0 in the residual, exactly and whatever the matrix; LoRA-GA's
directions come from gradients, so it is near 0 in the original and near -1 in the residual. With the trained B and A
in place of the first ones these shrink: training as strong as the start itself leaves 0.25 of 1, and 0 stays 0
(measured on 64 × 64 and 1024 × 1024, flat and decaying spectra). LoftQ's residual is a quantised matrix: each block of
64 holds at most 16 values. What these do not tell is refused: a mirror of the original, named with --base, looks alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from bot.errors import RefusedError
from bot.records import Binding, Plan
from bot.weights.reader import TensorReader

MODULES = 24  # are looked at, evenly spread: it is the same start everywhere
BLOCK, LEVELS = 64, 16  # LoftQ's: block size and values of 4 bits
SINGULAR = ("pissa", "corda")
STARTS = (*SINGULAR, "olora", "lora_ga")  # after which the base is W - s·B₀A₀
TOLD = (
    -0.3
)  # training as strong as the start leaves a residual's share at -0.25, the original's stays within 0.01
SURE = (
    5  # and by how many standard deviations of what chance makes of a share in the original it must be below
)


def check_start(plan: Plan, *, reader: TensorReader, adapter: Mapping[str, torch.Tensor]) -> None:
    """Raises RefusedError when the base is plainly not what the plan takes it for, or when it cannot be told."""
    patch = next(
        (p for p in plan.patches if p.key == "init_lora_weights" and isinstance(p.before, str)), None
    )
    if patch is None and plan.initial is None:
        return
    pairs = list(_pairs(plan, reader=reader, adapter=adapter))
    if patch is not None and patch.rule == "residual-base":
        _check_residual(str(patch.before), pairs=pairs, plan=plan)
    elif plan.initial is not None:
        _check_original(str(patch.before) if patch else "", pairs=pairs, plan=plan)


Pair = tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]


def _pairs(plan: Plan, *, reader: TensorReader, adapter: Mapping[str, torch.Tensor]) -> Iterator[Pair]:
    """W as (out, in), B, A and s of some of the linear layers; the initial adapter's where there is one."""
    plain = [b for b in plan.bindings if b.method in {"lora", "dora"} and b.source and len(b.shape) == 2]
    for binding in plain[:: max(1, len(plain) // MODULES)]:
        found = _factors(binding, adapter)
        if found is None:
            continue
        a, b = found
        if plan.initial is not None:
            rank = a.shape[0] // 2
            a, b = a[rank:], -b[:, rank:]
        weight = reader.read(str(binding.source)).float()
        flip = tuple(weight.shape) != (b.shape[0], a.shape[1]) or bool(
            plan.adapter_config.get("fan_in_fan_out")
        )
        yield weight.T if flip else weight, b, a, float(binding.scale or 0)


def _factors(
    binding: Binding, adapter: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    a = next((adapter[k].float() for k in binding.adapter if k.endswith(".lora_A.weight")), None)
    b = next((adapter[k].float() for k in binding.adapter if k.endswith(".lora_B.weight")), None)
    return None if a is None or b is None else (a, b)


def shares(pairs: list[Pair]) -> tuple[float, float]:
    """The median of ⟨W, Δ⟩ / ‖Δ‖² over the modules, and how far it is off by chance for a W of random entries."""
    found, noise = [], []
    for weight, b, a, scale in pairs:
        square = scale * scale * float(((b.T @ b) * (a @ a.T)).sum())
        if square > 0:
            found.append(scale * float(((weight @ a.T) * b).sum()) / square)
            noise.append(float(weight.std()) / square**0.5)
    if not found:
        return float("nan"), float("inf")
    middle = len(found) // 2
    return sorted(found)[middle], sorted(noise)[middle] / len(found) ** 0.5


def _check_original(init: str, *, pairs: list[Pair], plan: Plan) -> None:
    share, noise = shares(pairs)
    if not init.startswith(STARTS):  # PEFT's own examples set it to true before they save
        _check_changed(share, noise, pairs=pairs, plan=plan)
        return
    taken = share < 0.9 if init.startswith(SINGULAR) else share < min(TOLD, -SURE * noise)
    if taken:
        raise RefusedError(
            f"The initial adapter {plan.initial} is not in the base {plan.base}: its share there is {share:.2f}.",
            advice="Name the original base with --base, not the residual one; or the right initial adapter.",
            code="initial-adapter-differs",
        )


def _check_changed(share: float, noise: float, *, pairs: list[Pair], plan: Plan) -> None:
    """Where the config names no start that changed the base, the weights must show one, or a start with no delta."""
    if pairs and not any((b @ a).any() for _, b, a, _ in pairs):
        return
    if not (abs(share - 1) < 0.1 and share > SURE * noise):
        raise RefusedError(
            f"adapter_config.json names no start that changed the base, and the base {plan.base} does not show that"
            f" the initial adapter {plan.initial} was taken out of it (its share there is {share:.2f}).",
            advice="Leave out --initial-adapter: such an adapter is added to its base as it is.",
            code="initial-adapter-differs",
        )


def _check_residual(init: str, *, pairs: list[Pair], plan: Plan) -> None:
    if init.startswith("loftq"):
        if pairs and all(_is_quantised(weight) for weight, *_ in pairs):
            return
        raise _not_residual(
            plan, "its matrices are not those of a quantised model, which LoftQ's residual is"
        )
    share, noise = shares(pairs)
    sure = abs(share) < 0.1 if init.startswith(SINGULAR) else -2 < share < min(TOLD, -SURE * noise)
    if not sure:
        raise _not_residual(plan, f"the adapter's share in it is {share:.2f}")


def _is_quantised(weight: torch.Tensor) -> bool:
    """Whether blocks of consecutive numbers hold no more values than four bits have."""
    rows = weight.reshape(-1)[: weight.numel() // BLOCK * BLOCK].reshape(-1, BLOCK)[:64].sort(dim=1).values
    return rows.numel() > 0 and bool(((rows.diff(dim=1) != 0).sum(dim=1) < LEVELS).all())


def _not_residual(plan: Plan, why: str) -> RefusedError:
    return RefusedError(
        f"{plan.base} cannot be told to be the residual base of this adapter: {why}.",
        advice="Name the base that was saved after the adapter's start with --base, or the initial adapter with"
        " --initial-adapter.",
        code="base-not-residual",
    )
