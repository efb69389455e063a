"""A folder's tensors under the names of the parameters that transformers makes of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bot.merge.conversion import Converter, Group
from bot.merge.model import build_virtual, find_names, load_config
from bot.merge.modules import Read
from bot.weights.layout import Layout


class Parameters:
    """Parameters by name, from what `read` gives of a folder with this `layout` and config.json.

    The last group that was converted is kept. Raises what loading the config raises; `name` is what to call the model.
    """

    def __init__(
        self, read: Read, *, layout: Layout, config: dict[str, Any], name: str, model_class: str
    ) -> None:
        model = build_virtual(load_config(config, name=name), model_class=model_class)
        self.read = read
        self._names = find_names(model, layout=layout)
        self._converter = Converter(model)
        self._kept: dict[Group, dict[str, Tensor]] = {}

    def get(self, name: str) -> Tensor | None:
        """A parameter in its dtype on disk, by way of a tie if need be; None for one that the folder does not hold."""
        for each in (name, *self._sharing(name)):
            if each in self._names.disk:
                return self.read(self._names.disk[each])
            if each in self._names.converted:
                return self._converted(self._names.converted[each])[each]
        return None

    def tensors(self, name: str) -> tuple[str, ...]:
        """The tensors that `get` reads for a parameter; none for one that the folder does not hold."""
        for each in (name, *self._sharing(name)):
            if each in self._names.disk:
                return (self._names.disk[each],)
            if each in self._names.converted:
                return tuple(self._names.converted[each].tensors)
        return ()

    def _sharing(self, name: str) -> list[str]:
        first = self._names.tied.get(name, name)
        return [first, *(other for other, source in self._names.tied.items() if source == first)]

    def _converted(self, group: Group) -> dict[str, Tensor]:
        if group not in self._kept:
            tensors = {tensor: self.read(tensor) for tensor in group.tensors}
            self._kept = {group: self._converter.forward(group, tensors)}
        return self._kept[group]
