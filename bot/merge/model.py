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
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from bot.errors import InputError, RefusedError
from bot.merge.conversion import Converter, Group
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
    parameter → the group of tensors that transformers makes it from (stacked experts, split projections). `tied`:
    parameter → the one that it shares its storage with. `missing`: what is nowhere on disk, not even through a tie.
    """

    shapes: dict[str, tuple[int, ...]]
    disk: dict[str, str]
    converted: dict[str, Group]
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
        kind = CONFIG_MAPPING[model_type]
        plain = kind._decode_special_floats(
            dict(config)
        )  # {"__float__": "Infinity"}, as transformers writes it
        loaded: PretrainedConfig = kind.from_dict(plain)
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
    mapping = adapter_config.get("auto_mapping")
    mapping = mapping if isinstance(mapping, dict) else {}
    library = str(mapping.get("parent_library") or "")
    own = [mapping.get("base_model_class")] if library.split(".", maxsplit=1)[0] == "transformers" else []
    task = TASK_CLASSES.get(str(adapter_config.get("task_type")), {}).get(config.model_type)
    fallback = modeling_auto.MODEL_MAPPING_NAMES.get(config.model_type)
    names = [*own, task, *(config.architectures or []), fallback, *_text_classes(config)]
    flat = [n for name in names for n in (name if isinstance(name, list | tuple) else [name])]
    return [n for n in dict.fromkeys(flat) if isinstance(n, str) and is_model_class(n)]


def _text_classes(config: PretrainedConfig) -> list[str]:
    """The class for the text part alone, where transformers itself loads it from the whole model's checkpoint."""
    text = config.get_text_config(decoder=True)
    name = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type)
    if text is config or not isinstance(name, str) or not is_model_class(name):
        return []
    key = getattr(transformers, name).config_class.base_config_key
    return [name] if key and getattr(config, key, None) is text else []


def config_of(model_class: str, config: PretrainedConfig) -> PretrainedConfig:
    """The config that the class is built with: of a composite one, the text part for a class that is for text alone.

    transformers' Auto classes do the same.
    """
    kind = getattr(transformers, model_class).config_class
    if kind is None or isinstance(config, kind):
        return config
    text = config.get_text_config(decoder=True)
    return text if isinstance(text, kind) else config


def is_model_class(name: str) -> bool:
    """Whether transformers itself has a model class of that name."""
    found = getattr(transformers, name, None) if name.isidentifier() else None
    return isinstance(found, type) and issubclass(found, PreTrainedModel)


def is_class(name: str) -> bool:
    """Whether transformers itself has a class of that name: a model, a tokenizer, a processor."""
    return name.isidentifier() and isinstance(getattr(transformers, name, None), type)


def build_virtual(
    config: PretrainedConfig, *, model_class: str, dtype: torch.dtype = torch.float32, loaded: bool = False
) -> PreTrainedModel:
    """The model with virtual parameters of at least `dtype`: all arithmetic happens in that dtype.

    `loaded`: of the very dtypes that `from_pretrained(dtype=dtype)` gives them.
    """
    kind_of_model = getattr(transformers, model_class)
    with torch.device("meta"):
        found = config_of(model_class, config)
        model: PreTrainedModel = (
            kind_of_model._from_config(found, dtype=dtype) if loaded else kind_of_model(found)
        )
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                kind = parameter.dtype
                wide = torch.promote_types(kind, dtype) if kind.is_floating_point and not loaded else kind
                module._parameters[name] = Virtual.of(parameter.shape, wide)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.zeros((), dtype=buffer.dtype).expand(buffer.shape)
    model.train(mode=False)
    return model


def find_names(model: PreTrainedModel, *, layout: Layout) -> Names:
    """Maps the model's parameters to tensors on disk, with transformers' own rules for renamed checkpoints."""
    converter = Converter(model)
    disk: dict[str, str] = {}
    groups: dict[tuple[str, ...], list[str]] = {}
    for tensor in layout.tensors:
        name, pattern = converter.name(tensor)
        if name not in converter.state:
            continue
        if pattern is not None:
            groups.setdefault(converter.parameters(name, pattern=pattern), []).append(tensor)
        else:
            disk.setdefault(name, tensor)
    converted = {
        p: Group(tuple(tensors), parameters) for parameters, tensors in groups.items() for p in parameters
    }
    tied = dict(model.all_tied_weights_keys)
    return Names(
        shapes={name: tuple(tensor.shape) for name, tensor in converter.state.items()},
        disk=disk,
        converted=converted,
        tied=tied,
        missing=frozenset(_missing(model, present=set(disk) | set(converted), tied=tied)),
    )


def _missing(model: PreTrainedModel, *, present: set[str], tied: dict[str, str]) -> set[str]:
    groups: dict[str, set[str]] = {}
    for target, source in tied.items():
        groups.setdefault(source, {source}).add(target)
    through_ties = {name for group in groups.values() if group & present for name in group}
    ignored = [re.compile(p) for p in model._keys_to_ignore_on_load_missing or ()]
    absent = {name for name, _ in model.named_parameters(remove_duplicate=False)} - present - through_ties
    return {name for name in absent if not any(p.search(name) for p in ignored)}


def _first_line(error: Exception) -> str:
    """With the second one where the first only announces it."""
    first, *more = str(error).strip().split("\n")
    text = f"{first} {more[0].strip()}" if first.endswith(":") and more else first
    return text.rstrip(".:")[:200]
