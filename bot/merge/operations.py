"""What an adapter does to each parameter of the model, seen from names and shapes alone.

Every adapter tensor ends up in exactly one operation; what does not is refused by name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from peft import PeftModel
from peft.tuners.lora import layer as lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from bot.errors import RefusedError
from bot.merge.skeleton import ADAPTER, PREFIX, expected_tensors, saved_modules, tuner_layers
from bot.weights.header import TensorSpec

TENSOR_MARKS = (
    ".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector", ".base_layer.",
)  # fmt: skip
SUPPORTED_LAYERS = (lora.Linear, lora.Embedding, lora.Conv1d, lora.Conv2d, lora.Conv3d)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What happens to one parameter: see `bot.records.Binding` for the methods.

    `adapter` are the tensors consumed. `own` says that the parameter has a copy of its own in the live model (a tuner
    layer, a saved module), so that parameters tied to it do not follow.
    """

    method: str
    adapter: tuple[str, ...]
    own: bool


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
    peft_model: PeftModel, *, tensors: Mapping[str, TensorSpec], plain: Mapping[str, tuple[int, ...]]
) -> Operations:
    """Sorts the adapter's tensors into operations. `plain`: shapes of the plain model's parameters.

    Raises RefusedError for tensors that are missing or left over.
    """
    check_called(peft_model)
    operations = Operations()
    shapes = expected_tensors(peft_model)
    consumed: set[str] = set()
    for module, layer in tuner_layers(peft_model):
        keys = tuple(_layer_tensors(module, shapes=shapes))
        _check_shapes(keys, shapes=shapes, tensors=tensors)
        stored = tuple(k for k in (f"{PREFIX}{module}.base_layer.weight",) if k in tensors)
        consumed.update(keys, stored)
        _add_layer(operations, module, layer=layer, keys=keys + stored)
    left = {k: spec for k, spec in tensors.items() if k not in consumed}
    _add_replacements(operations, peft_model, left=left, plain=plain)
    return operations


def check_called(peft_model: PeftModel) -> None:
    """Raises RefusedError for a targeted module whose parent reads its weight and never calls it.

    PEFT acts when a module is called: there the live adapter does nothing, and a merge would do something (Mamba's
    dt_proj is such a module).
    """
    model = peft_model.get_base_model()
    places: dict[tuple[type[nn.Module], str], str] = {}
    for module, _ in tuner_layers(peft_model):
        parent, _, name = module.rpartition(".")
        places.setdefault((type(model.get_submodule(parent)), name), module)
    for (kind, name), module in places.items():
        source = inspect.getsource(kind)
        if re.search(rf"self\.{name}\.weight\b", source) and not re.search(rf"self\.{name}\(", source):
            raise RefusedError(
                f"The adapter targets {module}, which {type(model).__name__} never calls: the adapter has no effect"
                " there, and a merge would have one.",
                advice="Leave it out of target_modules and train again, or remove its tensors and its name.",
                code="module-not-called",
            )


def _layer_tensors(module: str, *, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    prefix = f"{PREFIX}{module}."
    for name in shapes:
        if name.startswith(prefix) and not name.startswith(f"{prefix}base_layer."):
            yield name


def _add_layer(operations: Operations, module: str, *, layer: BaseTunerLayer, keys: tuple[str, ...]) -> None:
    if not isinstance(layer, SUPPORTED_LAYERS):
        raise RefusedError(
            f"The adapter targets {module}, a {type(layer.get_base_layer()).__name__}, which is not supported yet.",
            advice="Merge it with PEFT's merge_and_unload and check the result's logits against the adapter's.",
            code="layer-unsupported",
        )
    bias = tuple(k for k in keys if k.endswith(".lora_B.bias"))
    method = "dora" if layer.use_dora.get(ADAPTER) else "lora"
    weight = tuple(k for k in keys if k not in bias)
    operations.add(f"{module}.weight", Operation(method=method, adapter=weight, own=True))
    if bias:
        operations.add(f"{module}.bias", Operation(method="lora_bias", adapter=bias, own=True))


def _add_replacements(
    operations: Operations,
    peft_model: PeftModel,
    *,
    left: Mapping[str, TensorSpec],
    plain: Mapping[str, tuple[int, ...]],
) -> None:
    modules = set(saved_modules(peft_model))
    for key, spec in left.items():
        name = plain_name(key.removeprefix(PREFIX))
        if name not in plain:
            raise _left_over(key, peft_model=peft_model)
        if plain[name] != spec.shape:
            raise _wrong_shape(key, found=spec.shape, wanted=plain[name])
        saved = any(name.startswith(f"{m}.") for m in modules)
        operations.add(name, Operation(method="replace", adapter=(key,), own=saved))
    for module in modules:
        for name in plain:
            if name.startswith(f"{module}.") and name not in operations.of:
                raise _missing(f"{PREFIX}{name}")


def plain_name(name: str) -> str:
    """The parameter's name in the plain model, without what PEFT's wrappers put in between."""
    for infix in (".base_layer.", ".original_module.", f".modules_to_save.{ADAPTER}.", ".modules_to_save."):
        name = name.replace(infix, ".")
    return name


def module_of(key: str) -> str:
    """The module or parameter of the plain model that an adapter tensor belongs to."""
    name = key.removeprefix(PREFIX)
    for mark in TENSOR_MARKS:
        head, found, _ = name.partition(mark)
        if found:
            return head
    return plain_name(name)


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
