"""Which of transformers' classes an adapter was trained on, told by the modules that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from bot.errors import RefusedError
from bot.merge.model import build_virtual, candidate_classes
from bot.merge.operations import SHARED, plain_name
from bot.merge.renaming import Places, modern_names
from bot.merge.skeleton import PREFIX
from bot.weights.header import TensorSpec


def choose_model(
    config: PretrainedConfig, *, adapter_config: dict[str, Any], tensors: Mapping[str, TensorSpec], name: str
) -> tuple[PreTrainedModel, dict[str, str]]:
    """The first candidate class that has every module the adapter names, sized as the adapter's whole tensors are.

    Names as they are come first, then old ones brought to today's: the second value is what had to be renamed.
    """
    candidates = []
    for model in _candidates(config, adapter_config=adapter_config):
        missing = _homeless(model, tensors=tensors)
        if not missing:
            return _sized(config, model=model, tensors=tensors), {}
        candidates.append((model, missing))
    for model, missing in candidates:
        renamed = modern_names(model, tensors, homeless=missing)
        modern = under(tensors, renamed)
        if renamed and not _homeless(model, tensors=modern):
            return _sized(config, model=model, tensors=modern), renamed
    if not candidates:
        raise RefusedError(
            f"{name} ({config.model_type}) names no model class that transformers has.",
            advice="Name a base with a standard architecture with --base.",
            code="architecture-unknown",
        )
    homeless = candidates[0][1]
    raise RefusedError(
        f"{len(homeless)} of the adapter's {len(tensors)} tensors find no module in {name}: {homeless[0]}, …",
        advice="The adapter was trained on another architecture: name its base with --base.",
        code="adapter-does-not-fit",
    )


def _candidates(config: PretrainedConfig, *, adapter_config: dict[str, Any]) -> Iterator[PreTrainedModel]:
    for model_class in candidate_classes(config, adapter_config=adapter_config):
        # What no config of this base can build is no candidate.
        with suppress(AttributeError, TypeError, ValueError):
            yield build_virtual(config, model_class=model_class)


def _sized(
    config: PretrainedConfig, *, model: PreTrainedModel, tensors: Mapping[str, TensorSpec]
) -> PreTrainedModel:
    if not _resize(config, model=model, tensors=tensors):
        return model
    return build_virtual(config, model_class=type(model).__name__)


def under(tensors: Mapping[str, TensorSpec], renamed: Mapping[str, str]) -> dict[str, TensorSpec]:
    """The tensors under their new names."""
    names = {key: renamed.get(key, key) for key in tensors}
    return {names[key]: replace(spec, name=names[key]) for key, spec in tensors.items()}


def _homeless(model: PreTrainedModel, *, tensors: Mapping[str, TensorSpec]) -> list[str]:
    """The adapter tensors that belong to no module of the model."""
    places = Places.of(model)
    return [key for key in tensors if not _has_home(key, places=places)]


def _has_home(key: str, *, places: Places) -> bool:
    if not key.startswith(PREFIX):
        return key.startswith(SHARED)  # shared by all layers; what is not is left over in the end
    return bool(places.module_of(plain_name(key.removeprefix(PREFIX))))


def _resize(config: PretrainedConfig, *, model: PreTrainedModel, tensors: Mapping[str, TensorSpec]) -> bool:
    """Gives the config the adapter's number of labels, and of tokens where it brings more; whether that changed it.

    Only whole tensors tell that differ from the model's in the number of rows and in nothing else.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    text = config.get_text_config()
    before = config.num_labels, getattr(text, "vocab_size", None)
    for key, spec in tensors.items():
        parameter = parameters.get(plain_name(key.removeprefix(PREFIX)))
        if parameter is None or not spec.shape or tuple(parameter.shape[1:]) != spec.shape[1:]:
            continue
        rows = parameter.shape[0]
        if rows == before[0] != spec.shape[0]:
            config.num_labels = spec.shape[0]
        elif rows == before[1] and spec.shape[0] > rows:  # fewer would cut a padded vocabulary
            text.vocab_size = spec.shape[0]
    return before != (config.num_labels, getattr(text, "vocab_size", None))


def is_part(config: dict[str, Any], model: PreTrainedModel) -> bool:
    """Whether the model is the text part of what the config describes."""
    return bool(model.config.model_type != config.get("model_type"))


def part_of(config: dict[str, Any], *, model: PreTrainedModel, name: str) -> list[str]:
    """What there is to say when the model is the text part of the base alone."""
    part = f"the adapter is for the text part of {name} ({type(model).__name__}): the rest is copied as it is"
    return [part] if is_part(config, model) else []
