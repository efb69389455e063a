"""Model classes of transformers by name, and the model without weights: which parameters it has and under which names.

Nothing here runs code from a model's folder or opens the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from bot.validate.quiet import quiet

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def model_type(name: str) -> Any:
    """The model class of that name in transformers' own namespace. Raises ValueError when there is none."""
    found = getattr(transformers, name, None)
    if not isinstance(found, type) or not hasattr(found, "from_pretrained") or "Model" not in _family(found):
        raise ValueError(f"transformers has no model class {name}")
    return found


def _family(found: type) -> str:
    """`Model` for model classes and their Auto counterparts."""
    if issubclass(found, PreTrainedModel) or found.__name__.startswith("AutoModel"):
        return "Model"
    return ""


def config_for(kind: Any, config: Any) -> Any:
    """The config that the class takes: of a composite one the text part, for a class that is for text alone."""
    own = getattr(kind, "config_class", None)
    text = config.get_text_config(decoder=True)
    return text if own and not isinstance(config, own) and isinstance(text, own) else config


def meta_model(folder: Path, name: str) -> Any:
    """The model of a folder's config.json without weights."""
    kind = model_type(name)
    with quiet(), torch.device("meta"):
        config = config_for(kind, AutoConfig.from_pretrained(folder, **LOCAL))
        model = kind.from_config(config) if name.startswith("Auto") else kind._from_config(config)
        model.tie_weights()
    return model


def conv1d_modules(folder: Path, name: str) -> frozenset[str] | None:
    """The modules that store their weight as (in, out); None when the model cannot be built."""
    try:
        model = meta_model(folder, name)
    except Exception:  # noqa: BLE001  # whatever transformers raises: the shapes decide then
        return None
    return frozenset(module for module, layer in model.named_modules() if isinstance(layer, Conv1D))


def missing_parameters(model: Any, tensors: Iterable[str]) -> set[str]:
    """The parameters that get no value when these tensors are loaded, tied ones not counted."""
    loaded = set(parameter_names(model, tensors).values())
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    groups = [{target, source} for target, source in tied.items()]
    for _ in groups:  # a chain of ties is followed to its end
        loaded |= {name for group in groups if group & loaded for name in group}
    return {name for name, _ in model.named_parameters(remove_duplicate=False)} - loaded


def parameter_names(model: Any, tensors: Iterable[str]) -> dict[str, str]:
    """Names on disk → names in the model, as transformers maps them on loading."""
    mapping = get_model_conversion_mapping(model)
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    state, prefix = model.state_dict(), model.base_model_prefix
    result = {}
    for tensor in tensors:
        name = rename_source_key(tensor, renamings, converters, prefix, state)[0]
        if name not in state and tensor in state:
            name = rename_source_key(tensor, [], [], prefix, state)[0]
        result[tensor] = name
    return result


def converted(folder: Path, name: str, tensors: Iterable[str]) -> set[str]:
    """The tensors that transformers makes others of on loading: experts one by one, split projections."""
    model = meta_model(folder, name)
    mapping = get_model_conversion_mapping(model)
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    state, prefix = model.state_dict(), model.base_model_prefix
    return {t for t in tensors if rename_source_key(t, renamings, converters, prefix, state)[1] is not None}


def embedding_rows(model: Any) -> int | None:
    """The rows of the input embedding; None for models without one."""
    try:
        weight = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):
        return None
    return int(weight.shape[0]) if weight.ndim == 2 else None
