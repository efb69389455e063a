"""Merges out of the model that transformers has loaded, layer by layer, through PEFT's own code in float32."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict

from bot.errors import InternalError, RefusedError
from bot.merge.layers import LayerMerger
from bot.merge.loaded import Loaded
from bot.merge.modules import STORED, WRAPPED, ModuleMerger, Read
from bot.merge.operations import TRAINING_ONLY
from bot.merge.skeleton import ADAPTER
from bot.records import Binding, Plan
from bot.weights.reader import TensorReader


class WholeModules(ModuleMerger):
    """The adapter's layers; what they are merged into comes from a loaded model in place of the base's files."""

    def __init__(self, plan: Plan, *, loaded: Loaded, **options: Any) -> None:
        super().__init__(plan, **options)
        self.loaded = loaded
        check_adapter(plan, peft_model=self.peft_model, adapter=self.adapter)

    def _converted(self, binding: Binding, read: Read) -> dict[str, torch.Tensor]:
        group = self._groups.get(binding.parameter)
        if group is None:
            return {}
        del read  # the model has them in its own form already
        return self._changed_group(group, {p: self.loaded.value(p) for p in group.parameters})


class WholeMerger(LayerMerger):
    """Gives the stream one layer at a time out of a loaded model. `reader` is for what is only copied or compared."""

    def __init__(
        self,
        plan: Plan,
        *,
        config: dict[str, Any],
        reader: TensorReader,
        adapter: Mapping[str, torch.Tensor],
        loaded: Loaded,
        device: torch.device,
    ) -> None:
        self.loaded = loaded
        super().__init__(plan, config=config, reader=reader, adapter=adapter, rows=None, device=device)

    def _modules(self, plan: Plan, **options: Any) -> ModuleMerger:
        return WholeModules(plan, loaded=self.loaded, base=self.reader.layout, **options)

    def _before(self, binding: Binding) -> torch.Tensor | None:
        if binding.source is None and binding.parameter == binding.tensor in self.loaded.names.converted:
            return self.loaded.value(binding.parameter)
        return super()._before(binding)

    def _merged(self, binding: Binding) -> torch.Tensor:
        read = self.reader.read if binding.method == "copy" else self._read
        merged = self.modules.merge(binding, read)
        if merged.is_meta:
            raise InternalError(
                f"{binding.tensor} was not merged.", advice="Report it.", code="weights-on-meta"
            )
        return merged

    def _read(self, tensor: str) -> torch.Tensor:
        """A tensor of the base as transformers has loaded it; as stored where its shape is another one there."""
        parameter = self.loaded.parameter_of(tensor)
        return self.reader.read(tensor) if parameter is None else self.loaded.value(parameter).cpu()


def check_adapter(plan: Plan, *, peft_model: PeftModel, adapter: Mapping[str, torch.Tensor]) -> None:
    """Every tensor of the file is in the plan, and in PEFT's layers with the value that the file has.

    Raises RefusedError by name; PEFT itself drops tensors with a warning or without.
    """
    planned = {key for binding in plan.bindings for key in binding.adapter}
    copies = tuple(k for k in adapter if k.endswith(STORED) or any(w in k for w in WRAPPED))
    left = sorted(k for k in adapter.keys() - planned - {*copies} if TRAINING_ONLY not in k)
    left += sorted(planned - adapter.keys())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_peft_model_state_dict(peft_model, adapter_name=ADAPTER, save_embedding_layers=False)
    for key in sorted(found.keys() & adapter.keys() - {*copies}) if not left else ():
        mine, theirs = adapter[key], found[key]
        if (
            theirs.is_meta
            or mine.shape != theirs.shape
            or not torch.equal(mine.to(theirs.dtype), theirs.cpu())
        ):
            left = [key]
            break
    if left:
        raise RefusedError(
            f"PEFT has not taken up {left[0]} as the adapter's file holds it.",
            advice="Save the adapter again from the trained model; if that changes nothing, report it.",
            code="adapter-not-loaded",
        )
