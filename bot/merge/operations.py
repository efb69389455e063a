"""What an adapter does to each parameter of the model, seen from names and shapes alone.

Every adapter tensor ends up in exactly one operation; what does not is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import PeftModel
from peft.tuners.lora.layer import Embedding, LoraLayer, ParamWrapper

from bot.errors import RefusedError
from bot.merge.skeleton import ADAPTER, PREFIX, Target, expected_tensors, saved_modules, targets
from bot.weights.header import TensorSpec

SHARED = "base_model."  # vectors and projections that all layers share lie directly below it
REDONE = ("pissa", "olora")  # inits of LoRA that take something out of the base, see `bot.merge.reinit`
TRAINING_ONLY = "lora_monteclora_sampler"  # MonteCLoRA's sampler is used in training, never in inference


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What happens to one parameter: see `bot.records.Binding` for the methods.

    `adapter` are the tensors consumed. `own` says that the parameter has a copy of its own in the live model (a tuner
    layer, a saved module), so that parameters tied to it do not follow.
    """

    method: str
    adapter: tuple[str, ...]
    own: bool
    scale: float | None = None


@dataclass
class Operations:
    """Operations by parameter."""

    of: dict[str, Operation] = field(default_factory=dict)

    def add(self, parameter: str, operation: Operation) -> None:
        """Raises RefusedError when the parameter has another operation already."""
        if parameter in self.of:
            raise RefusedError(
                f"The adapter changes {parameter} in two ways ({self.of[parameter].method} and {operation.method}).",
                advice="Leave the module in either target_modules or modules_to_save and save the adapter again.",
                code="contradiction",
            )
        self.of[parameter] = operation

    @property
    def replaced(self) -> set[str]:
        """Parameters that the adapter brings whole."""
        return {name for name, operation in self.of.items() if operation.method == "replace"}


def find_operations(
    peft_model: PeftModel,
    *,
    tensors: Mapping[str, TensorSpec],
    plain: Mapping[str, tuple[int, ...]],
    init: Any,
) -> Operations:
    """Sorts the adapter's tensors into operations.

    `plain`: shapes of the plain model's parameters. `init`: the config's `init_lora_weights`.

    Raises RefusedError for tensors that are missing or left over.
    """
    operations = Operations()
    consumed: set[str] = set()
    for target, keys, tied in _layers(peft_model, tensors=tensors):
        consumed.update(keys)
        for parameter in target.parameters:
            operations.add(parameter, _operation(target, parameter, keys=keys, tied=tied, init=init))
    left = {k: spec for k, spec in tensors.items() if k not in consumed}
    _add_replacements(operations, peft_model, left=left, plain=plain)
    return operations


def _layers(
    peft_model: PeftModel, *, tensors: Mapping[str, TensorSpec]
) -> Iterator[tuple[Target, tuple[str, ...], bool]]:
    """Every layer with a state of its own, the adapter tensors that it consumes, and whether others are tied to it."""
    shapes = expected_tensors(peft_model)
    found = list(targets(peft_model))
    shared = tuple(k for k in shapes if k.startswith(SHARED) and not k.startswith(PREFIX))
    own = {t.path: tuple(_layer_tensors(t.path, shapes=shapes)) for t in found}
    _check_shapes((*shared, *(k for keys in own.values() for k in keys)), shapes=shapes, tensors=tensors)
    for target in (t for t in found if t.source is None):
        twins = [t for t in found if t.source is target.layer]
        more = tuple(k for k in tensors if _is_beside(k, path=target.path))
        keys = (*own[target.path], *more, *shared, *(k for t in twins for k in own[t.path]))
        yield target, keys, bool(twins)


def _is_beside(key: str, *, path: str) -> bool:
    """Tensors of a layer that PEFT stores and does not load: the base's copy, and what only training needs."""
    rest = key.removeprefix(f"{PREFIX}{path}.") if key.startswith(f"{PREFIX}{path}.") else ""
    return rest == "base_layer.weight" or rest.startswith(TRAINING_ONLY)


def _operation(target: Target, parameter: str, *, keys: tuple[str, ...], tied: bool, init: Any) -> Operation:
    bias = tuple(k for k in keys if k.endswith(".lora_B.bias"))
    method = method_of(target.layer, init=init)
    if isinstance(target.layer, LoraLayer) and parameter.endswith(".bias"):
        return Operation(method="lora_bias", adapter=bias, own=True)
    scale = float(target.layer.scaling[ADAPTER]) if method in {"lora", "dora"} else None
    return Operation(
        method=method, adapter=tuple(k for k in keys if k not in bias), own=not tied, scale=scale
    )


def method_of(layer: Any, *, init: Any) -> str:
    """The name of what the layer does to its weight: see `bot.records.Binding`. `init`: `init_lora_weights`."""
    method = str(type(layer).__module__.split(".")[2])  # peft.tuners.METHOD.layer
    if method != "lora":
        return method
    if init in REDONE and not isinstance(
        layer, Embedding
    ):  # before DoRA: row blocks know nothing of the residual
        return str(init)
    if ADAPTER in layer.lora_variant:
        name = type(layer.lora_variant[ADAPTER]).__name__
        return re.sub(r"(Linear|Embedding|Conv\dd)Variant$", "", name).lower()
    if isinstance(layer, ParamWrapper):
        return "lora_parameter"
    return "lora"


def _layer_tensors(path: str, *, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    prefix = f"{PREFIX}{path}."
    for name in shapes:
        if name.startswith(prefix) and not name.startswith(f"{prefix}base_layer."):
            yield name


def _add_replacements(
    operations: Operations,
    peft_model: PeftModel,
    *,
    left: Mapping[str, TensorSpec],
    plain: Mapping[str, tuple[int, ...]],
) -> None:
    modules = set(saved_modules(peft_model))
    found: dict[str, list[str]] = {}
    for key, spec in left.items():
        name = plain_name(key.removeprefix(PREFIX))
        if ".original_module." in key and any(name.startswith(f"{m}.") for m in modules):
            continue  # the base's copy, which PEFT saves with a grown vocabulary and never uses
        if name not in plain:
            raise _left_over(key, peft_model=peft_model)
        if plain[name] != spec.shape:
            raise _wrong_shape(key, found=spec.shape, wanted=plain[name])
        found.setdefault(name, []).append(key)  # one weight under two names: the merge compares them
    for name, keys in found.items():
        saved = any(name.startswith(f"{m}.") for m in modules)
        operations.add(name, Operation(method="replace", adapter=tuple(keys), own=saved))
    for module in modules:
        for name in plain:
            if name.startswith(f"{module}.") and name not in operations.of:
                raise _missing(f"{PREFIX}{name}")


def stored_copies(tensors: Mapping[str, TensorSpec]) -> dict[str, tuple[int, ...]]:
    """The copies of the base's weights that PEFT saves with a targeted embedding: their shapes, by parameter."""
    return {
        plain_name(key.removeprefix(PREFIX)): spec.shape
        for key, spec in tensors.items()
        if key.endswith(".base_layer.weight")
    }


def plain_name(name: str) -> str:
    """The parameter's name in the plain model, without what PEFT's wrappers put in between."""
    for infix in (
        ".token_adapter.",
        ".base_layer.",
        ".original_module.",
        f".modules_to_save.{ADAPTER}.",
        ".modules_to_save.",
    ):
        name = name.replace(infix, ".")
    return name


def _check_shapes(
    keys: tuple[str, ...], *, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, TensorSpec]
) -> None:
    for key in keys:
        if key not in tensors:
            raise _missing(key)
        if tensors[key].shape != shapes[key]:
            raise _wrong_shape(key, found=tensors[key].shape, wanted=shapes[key])


def _missing(key: str) -> RefusedError:
    return RefusedError(
        f"The adapter file lacks {key}, which its adapter_config.json promises.",
        advice="Save the adapter again, or correct target_modules and modules_to_save to what was trained.",
        code="adapter-tensor-missing",
    )


def _wrong_shape(key: str, *, found: tuple[int, ...], wanted: tuple[int, ...]) -> RefusedError:
    if 0 in found:
        advice = (
            "Empty tensors come from a DeepSpeed ZeRO-3 save without gathering (peft#1710): save it again."
        )
    else:
        advice = "Check r, rank_pattern and the base: the adapter was trained on another model or vocabulary."
    return RefusedError(
        f"{key} has the shape {list(found)} where the base and adapter_config.json call for {list(wanted)}.",
        advice=advice,
        code="shape-mismatch",
    )


def _left_over(key: str, *, peft_model: PeftModel) -> RefusedError:
    model = type(peft_model.get_base_model()).__name__
    return RefusedError(
        f"The adapter tensor {key} belongs to nothing that adapter_config.json targets in {model}.",
        advice="PEFT would drop it without a word; correct target_modules, or name the right base with --base.",
        code="adapter-tensor-left-over",
    )
