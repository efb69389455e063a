"""Parameters that lie on disk in another form: experts one by one, projections fused. transformers' own conversions.

A group is the smallest set of tensors and parameters that convert into each other; one group is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

from bot.errors import RefusedError


@dataclass(frozen=True)
class Group:
    """Tensors on disk and the parameters that they become."""

    tensors: tuple[str, ...]
    parameters: tuple[str, ...]


class Converter:
    """The conversions of one architecture. `model` is a plain one (virtual or meta), without an adapter."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.state = model.state_dict()
        mapping = get_model_conversion_mapping(model)
        self._mapping = mapping
        self._renamings = [m for m in mapping if isinstance(m, WeightRenaming)]
        self._converters = [m for m in mapping if isinstance(m, WeightConverter)]
        self._used: list[Any] | None = None
        self._by_pattern = {p: c for c in self._converters for p in c.source_patterns}

    def name(self, tensor: str) -> tuple[str, str | None]:
        """The parameter (or the first of several) that a tensor on disk becomes, and the conversion's pattern."""
        prefix = self.model.base_model_prefix
        name, pattern = rename_source_key(tensor, self._renamings, self._converters, prefix, self.state)
        if name not in self.state and tensor in self.state:  # transformers' own loader does the same
            name, pattern = rename_source_key(tensor, [], [], prefix, self.state)
        return name, pattern

    def learn(self, tensors: Iterable[str]) -> None:
        """Has conversions written back as a model loaded from these tensors would: transformers notes what it used."""
        if not self._converters:
            return
        for tensor in tensors:
            self.name(tensor)
        self._used = [m for m in self._mapping if m.was_used()]

    def renamed(self, name: str) -> str:
        """Today's name of whatever carries an old module name; only renamings are applied, nothing is converted."""
        found: str = rename_source_key(name, self._renamings, [])[0]
        return found

    def parameters(self, first: str, *, pattern: str) -> tuple[str, ...]:
        """All parameters of the conversion that yields `first`."""
        head, *others = self._by_pattern[pattern].target_patterns
        names = [first, *(first.replace(head, other) for other in others)]
        return tuple(n for n in names if n in self.state)

    def forward(self, group: Group, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The group's parameters, from its tensors as on disk."""
        first = ""
        converter: Any = None
        for tensor in sorted(group.tensors, key=dot_natural_key):  # experts are stacked in this order
            first, pattern = self.name(tensor)
            converter = converter or deepcopy(self._by_pattern[str(pattern)])
            converter.add_tensor(first, tensor, pattern, tensors[tensor])
        if converter is None:
            raise ValueError("a group has at least one tensor")
        found: dict[str, Any] = converter.convert(first, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in found.items()}

    def backward(self, group: Group, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The group's tensors, from its parameters. Raises RefusedError when transformers gives other names."""
        found = self._reverted(parameters, used=None)
        if found.keys() != set(group.tensors) and self._used is not None:
            found = self._reverted(parameters, used=self._used)
        if found.keys() != set(group.tensors):
            raise RefusedError(
                f"transformers cannot write {group.parameters[0]} back in the form in which the base stores it.",
                advice="Save the base once with a current transformers (save_pretrained) and name it with --base.",
                code="converted-weights",
            )
        return found

    def _reverted(self, parameters: Mapping[str, torch.Tensor], *, used: list[Any] | None) -> dict[str, Any]:
        """`used`: the conversions that a loaded model has noted; None for a model made from its config."""
        model: Any = self.model  # where transformers' loader leaves what it has used
        model._weight_conversions = used
        try:
            found: dict[str, Any] = revert_weight_conversion(self.model, dict(parameters))
        finally:
            del model._weight_conversions
        return found

    def can_write(self, group: Group) -> bool:
        """Whether the group can be written back; see `check`."""
        try:
            self.check(group)
        except RefusedError:
            return False
        return True

    def check(self, group: Group) -> None:
        """Raises RefusedError when the group cannot be written back; costs nothing: it is tried on empty tensors."""
        shapes = {p: torch.empty(self.state[p].shape, device="meta") for p in group.parameters}
        self.backward(group, shapes)
