"""Adapters saved when their model had other module names: brought to today's by transformers' own conversions.

transformers 4.52 moved the parts of image-text models below `model.`, version 5 renamed the layers of ViT and others.
Checkpoints are converted as they are loaded; PEFT does not do so with adapters, and merges none of such modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft.tuners.tuners_utils import check_target_module_exists
from transformers import PreTrainedModel

from bot.errors import RefusedError
from bot.merge.conversion import Converter
from bot.merge.skeleton import PREFIX, peft_config
from bot.records import Patch

RULE = "old-module-names"
PATTERNS = ("rank_pattern", "alpha_pattern")
TOKENS = ".token_adapter."  # where trainable_token_indices lie
PLACES = ("exclude_modules", "layers_to_transform", "layers_pattern")


def modern_names(model: PreTrainedModel, keys: Iterable[str], *, homeless: Iterable[str]) -> dict[str, str]:
    """Today's names of those adapter tensors that find no module under the name that they have.

    Raises RefusedError when two tensors would get one name.
    """
    converter, places = Converter(model), Places.of(model)
    renamed = {}
    for key in homeless:
        new = PREFIX + converter.renamed(key.removeprefix(PREFIX))
        if new == key or not key.startswith(PREFIX):
            continue
        if places.module_of(new):
            renamed[key] = new
    names = [renamed.get(key, key) for key in keys]
    if len(set(names)) != len(names):
        raise RefusedError(
            "The adapter holds the same module under an old name and under today's.",
            advice="Save the adapter again with PEFT's save_pretrained.",
            code="contradiction",
        )
    return renamed


@dataclass(frozen=True)
class Places:
    """Where a tensor can belong: `owners` have parameters of their own (or are one), `modules` are all there are."""

    owners: frozenset[str]
    modules: frozenset[str]

    @classmethod
    def of(cls, model: PreTrainedModel) -> Places:
        """The places of a plain model, without an adapter."""
        parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        owners = frozenset(name.rpartition(".")[0] for name in parameters)
        modules = frozenset(name for name, _ in model.named_modules(remove_duplicate=False))
        return cls(owners | frozenset(parameters), modules)

    def module_of(self, key: str) -> str:
        """The owner that an adapter tensor belongs to; empty when there is none."""
        name = key.removeprefix(PREFIX)
        owner = name
        while owner and owner not in self.owners:
            owner = owner.rpartition(".")[0]
        child = name.removeprefix(f"{owner}.").partition(".")[0]
        inside = (
            f"{owner}.{child}" in self.modules
        )  # then it speaks of a part of the owner, which has no such part
        return "" if inside else owner


def modern_config(
    model: PreTrainedModel,
    adapter_config: Mapping[str, Any],
    *,
    keys: Iterable[str],
    renamed: Mapping[str, str],
) -> tuple[Patch, ...]:
    """What has to change in the config so that it says of today's names what it said of the old ones.

    `keys`: the adapter's tensors by their old names.
    """
    modules = _modules(keys, renamed=renamed, places=Places.of(model))
    patches = [
        _patch(key, adapter_config[key], _pattern(adapter_config[key], modules=modules))
        for key in PATTERNS
        if adapter_config.get(key)
    ]
    saved = tuple(adapter_config.get("modules_to_save") or ())
    targets = sorted(new for new in modules.values() if not new.endswith(saved))
    config = peft_config(dict(adapter_config))
    if targets and not _is_told(config, targets=targets, places=Places.of(model)):
        patches.append(_patch("target_modules", adapter_config.get("target_modules"), targets))
        patches += [_patch(k, adapter_config[k], None) for k in PLACES if adapter_config.get(k) is not None]
    return tuple(patches)


def _is_told(config: Any, *, targets: list[str], places: Places) -> bool:
    """Whether the config means these modules by today's names; and no other, where it excludes some by old ones."""
    if not all(check_target_module_exists(config, module) for module in targets):
        return False
    more = places.owners & places.modules - {*targets}
    return not (config.exclude_modules and any(check_target_module_exists(config, name) for name in more))


def _modules(keys: Iterable[str], *, renamed: Mapping[str, str], places: Places) -> dict[str, str]:
    """The modules that the adapter's tensors belong to, old name → today's."""
    found = {}
    for key in keys:
        new = renamed.get(key, key)
        module = places.module_of(new)
        rest = new.removeprefix(f"{PREFIX}{module}")
        layer = bool(rest) and not rest.startswith(TOKENS)  # and no tensor of the model, whole or by rows
        if module and layer and key.endswith(rest):
            found[key.removeprefix(PREFIX).removesuffix(rest)] = module
    return found


def _pattern(pattern: Mapping[str, Any], *, modules: Mapping[str, str]) -> dict[str, Any]:
    """Each module's own value, found by its old name as PEFT would (peft.utils.other.get_pattern_key)."""
    found = {}
    for old, new in modules.items():
        key = next((k for k in pattern if re.match(rf"(.*\.)?({k})$", old)), None)
        if key is not None:
            found[f"^{re.escape(new)}"] = pattern[key]
    return found


def _patch(key: str, before: Any, after: Any) -> Patch:
    reason = "it spoke of modules by names that transformers has changed since"
    return Patch(rule=RULE, key=key, before=before, after=after, reason=reason)


def patched(adapter_config: Mapping[str, Any], patches: Iterable[Patch]) -> dict[str, Any]:
    """The config with these patches."""
    changes = {patch.key: patch.after for patch in patches}
    return {k: v for k, v in {**adapter_config, **changes}.items() if k not in changes or v is not None}
