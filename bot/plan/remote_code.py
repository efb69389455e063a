"""Code that a repository brings (`auto_map`): never run, never passed on, and said by name where it would be needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from bot.records import ConfigEdit, Sidecar
from bot.weights.files import Files, read_small

KEY = "auto_map"
NAMING = frozenset(
    {
        "tokenizer_config.json", "preprocessor_config.json", "processor_config.json", "image_processor_config.json",
        "video_preprocessor_config.json", "audio_processor_config.json",
    }
)  # fmt: skip
CLASSES = (
    "tokenizer_class",
    "processor_class",
    "image_processor_type",
    "feature_extractor_type",
    "video_processor_type",
)
MAX_BYTES = 50_000_000
REASON = (
    "the merge is transformers' own model: code of the base's repository is not part of it, and is not loaded"
)


def has_model(config: Mapping[str, Any]) -> bool:
    """Whether a config.json names code for a model, not for a tokenizer or the config alone."""
    return any(name.startswith("AutoModel") for name in _map(config))


def needed(config: Mapping[str, Any], *, is_native: Callable[[str], bool]) -> str:
    """The model class that only the repository's own code has; empty when transformers has it.

    A native `model_type` does not do: with a class of the repository's own, the weights belong to another arithmetic.
    """
    if not has_model(config):
        return ""
    named = config.get("architectures")
    classes = [c for c in named if isinstance(c, str)] if isinstance(named, list) else []
    if not classes:
        found = (value for name, value in _map(config).items() if name.startswith("AutoModel"))
        classes = [value.rpartition(".")[2] for value in found if isinstance(value, str)]
    return next((c for c in classes if not is_native(c)), "") if classes else "class that config.json names"


def edits(config: Mapping[str, Any]) -> list[ConfigEdit]:
    """What takes `auto_map` out of a config.json that transformers loads without it, nested configs included.

    `owner/name--module.Class` in it would load code from somebody else's repository, at whatever state that has then.
    """
    found = [_edit(KEY, config[KEY])] if KEY in config else []
    inner = [(key, value) for key, value in config.items() if isinstance(value, dict) and "." not in key]
    return found + [_edit(f"{key}.{KEY}", value[KEY]) for key, value in inner if key != KEY and KEY in value]


def without_code(
    sidecars: Iterable[Sidecar], *, adapter: Files, base: Files, is_native: Callable[[str], bool]
) -> tuple[tuple[Sidecar, ...], list[str]]:
    """The same files, without `auto_map` where transformers has the tokenizer or processor, and notes on the others.

    Those stay as they are: without the key, transformers might take another class for them without a word.
    """
    places = {"adapter": adapter, "base": base}
    found, notes = [], []
    for sidecar in sidecars:
        content = _naming(places[sidecar.origin], sidecar.name)
        named = [v for key in CLASSES if isinstance(v := content.get(key), str)]
        native = any(is_native(name) for name in named) if content else False
        found.append(replace(sidecar, without=KEY) if native else sidecar)
        if content and not native:
            notes.append(
                f"{sidecar.name} names code of its repository (auto_map), which is not part of the result"
            )
    return tuple(found), notes


def _naming(files: Files, name: str) -> dict[str, Any]:
    """The file's content if it names code; else empty."""
    if name not in NAMING or files.sizes()[name] > MAX_BYTES:
        return {}
    try:
        found = json.loads(read_small(files, name))
    except (ValueError, RecursionError):
        return {}  # it is copied as it is, and the checks say what is wrong with it
    return found if isinstance(found, dict) and KEY in found else {}


def _edit(key: str, before: Any) -> ConfigEdit:
    return ConfigEdit(key=key, before=before, after=None, reason=REASON)


def _map(config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get(KEY)
    return {str(k): v for k, v in found.items()} if isinstance(found, dict) else {}
