"""Whether an adapter can have been trained on a base: their shapes, compared by headers alone, before any download."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bot.errors import RefusedError
from bot.plan.rules.evidence import Evidence
from bot.weights.header import FLOATS
from bot.weights.layout import Layout

# The part of a module's name from its layer's list on: what comes before it changes with the model's class.
TAIL = re.compile(r"(?:^|\.)([A-Za-z_]\w*\.\d{1,9}\..+)", re.ASCII)
Shape = tuple[int, ...]


def check(weights: Evidence, layout: Layout, *, config: Mapping[str, Any], name: str) -> None:
    """Raises RefusedError when headers alone show that the adapter was trained on another model."""
    reason = misfit(weights, layout, name=name) if is_comparable(config) else None
    if reason is not None:
        raise RefusedError(
            f"{reason}.",
            advice="Name the base that it was trained on with --base; `merge-bot doctor` lists who names which.",
            code="base-does-not-fit",
        )


def is_comparable(config: Mapping[str, Any]) -> bool:
    """Whether the factors have the layers' own inputs and outputs; `config` is the adapter's."""
    return config.get("peft_type") == "LORA" and not config.get("use_bdlora") and not config.get("use_qalora")


def misfit(weights: Evidence, layout: Layout, *, name: str) -> str | None:
    """Why the adapter cannot be one of this base; None when nothing speaks against it. Only LoRA is looked at."""
    shapes = {t.name: t.shape for t in layout.tensors.values() if t.dtype in FLOATS and len(t.shape) == 2}
    by_tail = _by_tail(shapes)
    wrong, right = [], 0
    for module in sorted(weights.ranks):
        mine, theirs = _features(weights, module), _find(module, shapes, by_tail)
        if mine is None or theirs is None:
            continue
        if sorted(mine) == sorted(theirs):
            right += 1
        else:
            wrong.append((module, mine, theirs))
    if len(wrong) > right:  # fewer are damage of the adapter, which whoever binds it names
        telling = next((w for w in wrong if w[1][1] != w[2][1]), wrong[0])  # another width says most
        return _sentence(*telling, name=name)
    return _missing_layer(weights, by_tail, name=name)


def _sentence(module: str, mine: Shape, theirs: Shape, *, name: str) -> str:
    if mine[1] != theirs[1] and mine[1] not in theirs:
        return f"This adapter was trained on a {mine[1]}-wide model; {name} has {theirs[1]} (at {module})"
    return (
        f"This adapter was trained on a model whose {module} is {mine[0]} × {mine[1]}; in {name} it is"
        f" {theirs[0]} × {theirs[1]}"
    )


def _features(weights: Evidence, module: str) -> Shape | None:
    """Outputs and inputs of the linear layer that the factors were made for."""
    a, b = (weights.shapes.get(f"{module}.lora_{factor}.weight") for factor in "AB")
    return (b[0], a[1]) if a and b and len(a) == len(b) == 2 else None


def _find(module: str, shapes: Mapping[str, Shape], by_tail: Mapping[str, list[Shape]]) -> Shape | None:
    """The base's weight of that module: by its whole name, or by its tail where only one tensor has it."""
    if f"{module}.weight" in shapes:
        return shapes[f"{module}.weight"]
    tail = TAIL.search(module)
    found = by_tail.get(f"{tail[1]}.weight", []) if tail else []
    return found[0] if len(found) == 1 else None


def _by_tail(shapes: Mapping[str, Shape]) -> dict[str, list[Shape]]:
    found: dict[str, list[Shape]] = {}
    for name, shape in shapes.items():
        if tail := TAIL.search(name):
            found.setdefault(tail[1], []).append(shape)
    return found


def _missing_layer(weights: Evidence, by_tail: Mapping[str, list[Shape]], *, name: str) -> str | None:
    """A layer that the base does not have, in a list of which it has others with the same module in them.

    Where the layer has other modules, this one may be shared with another layer and stored there (Zamba2).
    """
    last: dict[tuple[str, str], int] = {}
    layers: set[tuple[str, str]] = set()
    for known in by_tail:
        place, number, rest = known.split(".", 2)  # `mlp.0.weight` of a Sequential has nothing in between
        layers.add((place, number))
        last[place, rest] = max(int(number), last.get((place, rest), 0))
    for module in sorted(weights.ranks):
        tail = TAIL.search(module)
        if tail is None:
            continue
        place, number, rest = f"{tail[1]}.weight".split(".", 2)
        if (place, number) not in layers and int(number) > last.get((place, rest), int(number)):
            return (
                f"This adapter was trained on a model with at least {int(number) + 1} layers; {name} has"
                f" {last[place, rest] + 1} (there is no {module})"
            )
    return None
