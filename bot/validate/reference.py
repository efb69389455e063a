"""Which formula makes a changed tensor, by the papers: independent of PEFT's layers and of our engine.

LoRA, arXiv:2106.09685: W + s·BA. rsLoRA, arXiv:2312.03732: s = alpha/√r. DoRA, arXiv:2402.09353: m·V/‖V‖, V = W + s·BA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bot.records import Binding
from bot.validate.formula import Formula
from bot.validate.sources import Source, everything, matrix_shape
from bot.weights.floats import Array

ROLE = re.compile(
    r"\.(lora_embedding_A|lora_embedding_B|lora_A|lora_B|lora_magnitude_vector|base_layer)"
    r"(?:\.default)?(?:\.(weight|bias))?$"
)


TAKEN = frozenset({"replace", "copy"})
METHODS = TAKEN | {"lora", "dora", "lora_bias"}


class NoReferenceError(ValueError):
    """The binding and its tensors fit no formula that is known here."""


def formula(
    binding: Binding,
    *,
    source: Source | None,
    adapter: Mapping[str, Source],
    config: dict[str, Any],
    transposed: bool | None = None,
) -> Formula:
    """How the binding's tensor comes about.

    `adapter`: its tensors by their names in the file, those of its own module first. `config`: the patched
    adapter_config.json. `transposed`: whether the layer is a Conv1D (None: told from shapes, then from the config).
    Raises NoReferenceError when the tensors fit no formula.
    """
    if binding.method in TAKEN:
        taken = next(iter(adapter.values()), None) if binding.method == "replace" else source
        start = _fitting(_need(taken, binding, "tensor to take over"), binding)
        return Formula(start=start, dtype=binding.dtype)
    if binding.method not in METHODS:
        raise NoReferenceError(f"no formula for the method {binding.method!r}")
    parts: dict[str, Source] = {}
    for name, tensor in adapter.items():  # tied layers bring the same factors twice: the first are their own
        parts.setdefault(role(name), tensor)
    start = _start(source, copy=parts.get("base_layer"), binding=binding)
    module = binding.parameter.rpartition(".")[0]
    if binding.method == "lora_bias":
        left = everything(_need(parts.get("lora_B.bias"), binding, "lora_B.bias"))
        scale = scaling(module, config=config, rank=None)
        return Formula(start=start, dtype=binding.dtype, left=left, right=np.ones((1, 1)), scale=scale)
    left, right, by_column = _factors(
        parts, binding=binding, shape=start.shape, config=config, transposed=transposed
    )
    scale = scaling(module, config=config, rank=right.shape[0])
    found = Formula(
        start=start, dtype=binding.dtype, left=left, right=right, scale=scale, by_column=by_column
    )
    return _with_magnitude(found, parts=parts, binding=binding) if binding.method == "dora" else found


def role(name: str) -> str:
    """What a tensor of the adapter's file is for, by the end of its name."""
    match = ROLE.search(name)
    if not match:
        return name
    return f"{match[1]}.bias" if match[2] == "bias" else match[1]


def scaling(module: str, *, config: dict[str, Any], rank: int | None) -> float:
    """S for a module, its rank and alpha found in the patterns as PEFT does; the tensors' rank must agree."""
    configured = _pattern(config.get("rank_pattern"), module, default=config.get("r", 8))
    alpha = _pattern(config.get("alpha_pattern"), module, default=config.get("lora_alpha", 8))
    if rank is not None and rank != configured:
        raise NoReferenceError(
            f"the rank of {module} is {rank} in the weights and {configured} in the config"
        )
    return float(alpha) / (math.sqrt(configured) if config.get("use_rslora") else configured)


def _factors(
    parts: Mapping[str, Source],
    *,
    binding: Binding,
    shape: tuple[int, int],
    config: dict[str, Any],
    transposed: bool | None,
) -> tuple[Array, Array, bool]:
    """Left and right with left@right shaped as the tensor is stored, and whether a magnitude belongs to columns."""
    if "lora_embedding_A" in parts:
        a, b = (
            everything(_need(parts.get(f"lora_embedding_{f}"), binding, f"lora_embedding_{f}")) for f in "AB"
        )
        transposed = True
    else:
        a, b = (everything(_need(parts.get(name), binding, name)) for name in ("lora_A", "lora_B"))
        if transposed is None:
            square = shape[0] == shape[1]
            transposed = (
                bool(config.get("fan_in_fan_out")) if square else shape[0] == a.shape[1] != b.shape[0]
            )
    left, right = (a.T, b.T) if transposed else (b, a)
    if (left.shape[0], right.shape[1]) != shape or left.shape[1] != right.shape[0]:
        raise NoReferenceError(f"factors of shape {a.shape} and {b.shape} do not fit {shape}")
    return np.ascontiguousarray(left), np.ascontiguousarray(right), transposed


def _with_magnitude(found: Formula, *, parts: Mapping[str, Source], binding: Binding) -> Formula:
    magnitude = everything(
        _need(parts.get("lora_magnitude_vector"), binding, "lora_magnitude_vector")
    ).reshape(-1)
    if magnitude.size != found.start.shape[1 if found.by_column else 0]:
        raise NoReferenceError(f"a magnitude of {magnitude.size} entries does not fit {binding.tensor}")
    return replace(found, magnitude=magnitude)


def _pattern(patterns: dict[str, Any] | None, module: str, *, default: Any) -> Any:
    """The first pattern that matches the end of the module's name, as peft.utils.other.get_pattern_key has it."""
    return next((v for k, v in (patterns or {}).items() if re.match(rf"(.*\.)?({k})$", module)), default)


def _need(source: Source | None, binding: Binding, what: str) -> Source:
    if source is None:
        raise NoReferenceError(f"{binding.tensor} has no {what}")
    return source


def _start(source: Source | None, *, copy: Source | None, binding: Binding) -> Source:
    """The base's tensor; the adapter's copy of it, which may be rounded, only where tokens were added to it."""
    if copy is not None and (source is None or source.shape != matrix_shape(binding.shape)):
        source = copy
    return _fitting(_need(source, binding, "source tensor"), binding)


def _fitting(start: Source, binding: Binding) -> Source:
    count = math.prod(start.shape)
    if start.shape != matrix_shape(binding.shape):
        raise NoReferenceError(f"{binding.tensor} starts from {count} numbers, its shape is {binding.shape}")
    return start
