"""A model of the right class that holds no weights, and which of its parameters lies where on disk.

Every parameter is a *virtual* one: the right shape, one element of storage. PEFT takes it for a real model on the
CPU; on the meta device it would move the adapter to meta as well, and merge nothing without a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bot.errors import InputError, RefusedError
from bot.weights.layout import Layout

TASK_CLASSES: dict[str, Mapping[str, Any]] = {
    "CAUSAL_LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "QUESTION_ANS": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "FEATURE_EXTRACTION": modeling_auto.MODEL_MAPPING_NAMES,
}


class Virtual(nn.Parameter):
    """A parameter of any shape that stores one element."""

    @staticmethod
    def of(shape: torch.Size, dtype: torch.dtype) -> Virtual:
        """A virtual parameter of that shape and dtype, on the CPU."""
        return Virtual(torch.zeros((), dtype=dtype).expand(shape), requires_grad=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Virtual:
        """Stays virtual: PEFT deep-copies whole modules for `modules_to_save`, and a plain copy would allocate."""
        return Virtual.of(self.shape, self.dtype)


@dataclass(frozen=True)
class Names:
    """The model's parameters and where they lie on disk.

    `shapes`: every parameter and persistent buffer. `disk`: parameter → the one tensor that is it. `converted`:
    parameter → tensors that transformers turns into it (stacked experts, split projections). `tied`: parameter → the
    parameter that it shares its storage with. `missing`: parameters that are nowhere on disk, not even through a tie.
    """

    shapes: dict[str, tuple[int, ...]]
    disk: dict[str, str]
    converted: dict[str, tuple[str, ...]]
    tied: dict[str, str]
    missing: frozenset[str]


def load_config(config: dict[str, Any], *, name: str) -> PretrainedConfig:
    """The transformers config of a `config.json`. Raises InputError or RefusedError; never runs foreign code."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise InputError(
            f"The config.json of {name} does not say its model_type.",
            advice="Name a base saved by transformers with --base.",
            code="base-config",
        )
    if model_type not in CONFIG_MAPPING:
        raise RefusedError(
            f"transformers {transformers.__version__} does not know the architecture {model_type!r} of {name}.",
            advice="Code from repositories is never run here; a newer transformers may know the architecture.",
            code="architecture-unknown",
        )
    try:
        loaded: PretrainedConfig = CONFIG_MAPPING[model_type].from_dict(dict(config))
    except (
        Exception
    ) as error:  # any class may raise anything over a config from the wild: a bad file, not our bug
        raise InputError(
            f"The config.json of {name} cannot be loaded as {model_type}: {_first_line(error)}.",
            advice="Check that the base is complete, or name another one with --base.",
            code="base-config",
        ) from error
    return loaded


def candidate_classes(config: PretrainedConfig, *, adapter_config: dict[str, Any]) -> list[str]:
    """Names of the model classes that the adapter may have been trained on, the likeliest first."""
    mapping = adapter_config.get("auto_mapping") or {}
    library = str(mapping.get("parent_library") or "")
    own = [mapping.get("base_model_class")] if library.split(".", maxsplit=1)[0] == "transformers" else []
    task = TASK_CLASSES.get(str(adapter_config.get("task_type")), {}).get(config.model_type)
    fallback = modeling_auto.MODEL_MAPPING_NAMES.get(config.model_type)
    names = [*own, task, *(config.architectures or []), fallback]
    flat = [n for name in names for n in (name if isinstance(name, list | tuple) else [name])]
    return [n for n in dict.fromkeys(flat) if isinstance(n, str) and is_model_class(n)]


def is_model_class(name: str) -> bool:
    """Whether transformers itself has a model class of that name."""
    found = getattr(transformers, name, None) if name.isidentifier() else None
    return isinstance(found, type) and issubclass(found, PreTrainedModel)


def build_virtual(config: PretrainedConfig, *, model_class: str) -> PreTrainedModel:
    """The model with virtual parameters in float32 (float64 stays): all arithmetic happens in that dtype."""
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, model_class)(config)
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                dtype = (
                    torch.float32 if parameter.dtype in {torch.float16, torch.bfloat16} else parameter.dtype
                )
                module._parameters[name] = Virtual.of(parameter.shape, dtype)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.zeros((), dtype=buffer.dtype).expand(buffer.shape)
    model.train(mode=False)
    return model


def find_names(model: PreTrainedModel, *, layout: Layout) -> Names:
    """Maps the model's parameters to tensors on disk, with transformers' own rules for renamed checkpoints."""
    state = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [m for m in mapping if isinstance(m, WeightRenaming)]
    converters = [m for m in mapping if isinstance(m, WeightConverter)]
    disk: dict[str, str] = {}
    converted: dict[str, list[str]] = {}
    for tensor in layout.tensors:
        name, pattern = _model_name(
            tensor, renamings, converters, prefix=model.base_model_prefix, state=state
        )
        if name not in state:
            continue
        if pattern is None and name not in disk:
            disk[name] = tensor
        else:
            converted.setdefault(name, []).append(tensor)
    tied = dict(model.all_tied_weights_keys)
    return Names(
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        disk=disk,
        converted={k: tuple(v) for k, v in converted.items()},
        tied=tied,
        missing=frozenset(
            _missing(model, present=set(disk) | _converted_targets(converted, converters, state), tied=tied)
        ),
    )


def _model_name(
    tensor: str, renamings: list[Any], converters: list[Any], *, prefix: str, state: dict[str, torch.Tensor]
) -> tuple[str, str | None]:
    name, pattern = rename_source_key(tensor, renamings, converters, prefix, state)
    if name not in state and tensor in state:  # transformers' own loader does the same
        name, pattern = rename_source_key(tensor, [], [], prefix, state)
    return name, pattern


def _converted_targets(
    converted: dict[str, list[str]], converters: list[Any], state: dict[str, Any]
) -> set[str]:
    """Every parameter that a conversion yields: one that splits names only its first target."""
    targets = set(converted)
    for name in converted:
        for converter in converters:
            first, *others = converter.target_patterns
            targets |= {t for other in others if first in name and (t := name.replace(first, other)) in state}
    return targets


def _missing(model: PreTrainedModel, *, present: set[str], tied: dict[str, str]) -> set[str]:
    groups: dict[str, set[str]] = {}
    for target, source in tied.items():
        groups.setdefault(source, {source}).add(target)
    through_ties = {name for group in groups.values() if group & present for name in group}
    ignored = [re.compile(p) for p in model._keys_to_ignore_on_load_missing or ()]
    absent = {name for name, _ in model.named_parameters(remove_duplicate=False)} - present - through_ties
    return {name for name in absent if not any(p.search(name) for p in ignored)}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:200]
