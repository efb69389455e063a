"""Merges one module at a time through PEFT's own layer code, in float32, on a base that is otherwise virtual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import set_peft_model_state_dict
from torch import nn

from bot.errors import InternalError, RefusedError
from bot.merge.model import build_virtual, load_config
from bot.merge.skeleton import ADAPTER, PREFIX, inject, peft_config, tuner_layers
from bot.records import Binding, Plan

STORED = ".base_layer.weight"
SAME = 2**-7  # how far a stored copy of the base may be off after a detour through another 16-bit dtype


class ModuleMerger:
    """Holds the adapter's layers; base weights pass through, one module at a time."""

    def __init__(
        self, plan: Plan, *, config: dict[str, Any], adapter: Mapping[str, torch.Tensor], device: torch.device
    ) -> None:
        self.adapter = adapter
        self.device = device
        model = build_virtual(load_config(config, name="the base"), model_class=plan.model_class)
        peft_model = inject(model, config=peft_config(plan.adapter_config), empty=True)
        tensors = {
            k: v.float() if v.is_floating_point() else v for k, v in adapter.items() if not k.endswith(STORED)
        }
        loaded: Any = set_peft_model_state_dict(
            peft_model, tensors, adapter_name=ADAPTER, low_cpu_mem_usage=True
        )
        self.layers: dict[str, Any] = dict(
            tuner_layers(peft_model)
        )  # tuner layers: PEFT types only half of them
        _check_loaded(self.layers, unexpected=loaded.unexpected_keys)

    def merge(self, binding: Binding, source: torch.Tensor | None) -> torch.Tensor:
        """The merged tensor, not yet rounded: float32 or float64, of the binding's shape, on the merger's device.

        `source`: the base's tensor as on disk, None when the adapter brings the whole tensor. Raises RefusedError
        when adapter tensors contradict each other or the base.
        """
        if binding.method == "replace":
            return self._replacement(binding)
        if source is None:
            raise InternalError(f"{binding.tensor} has no source", advice="Report it.", code="no-source")
        self._check_stored(binding, source)
        if binding.method == "copy":
            return source
        module, _, kind = binding.parameter.rpartition(".")
        self._check_twin(binding, module=module)
        return self._merge_layer(self.layers[module], kind=kind, source=source)

    def _merge_layer(self, layer: Any, *, kind: str, source: torch.Tensor) -> torch.Tensor:
        base: nn.Module = layer.get_base_layer()
        virtual = dict(base._parameters)
        dtype = torch.promote_types(source.dtype, torch.float32)
        try:
            real = source.to(
                self.device, dtype, copy=True
            )  # never the mapped file itself: merge() adds in place
            for name, parameter in virtual.items():
                stand_in = (
                    None if parameter is None else real if name == kind else torch.zeros(parameter.shape)
                )
                base._parameters[name] = (
                    None if stand_in is None else nn.Parameter(stand_in, requires_grad=False)
                )
            layer.to(self.device)
            layer.merge(safe_merge=False, adapter_names=[ADAPTER])  # safe_merge would round the delta first
            merged = base._parameters[kind]
        finally:
            base._parameters.update(virtual)
            layer.merged_adapters.clear()
        if merged is None:
            raise InternalError(f"{kind} vanished in the merge", advice="Report it.", code="no-result")
        return merged.data

    def _replacement(self, binding: Binding) -> torch.Tensor:
        first, *others = (self.adapter[k] for k in binding.adapter)
        if any(not torch.equal(first, other) for other in others):
            raise _contradiction(binding, "they share their storage and hold different values")
        return first

    def _check_stored(self, binding: Binding, source: torch.Tensor) -> None:
        """The copy of the base that PEFT saves with a targeted embedding must be this base's."""
        for key in (k for k in binding.adapter if k.endswith(STORED)):
            stored, base = self.adapter[key].float(), source.float()
            if stored.shape != base.shape or not torch.allclose(stored, base, rtol=SAME, atol=1e-6):
                raise RefusedError(
                    f"The adapter stores the base's {binding.source}, and it is not the one of this base.",
                    advice="The adapter was trained on another model: name it with --base.",
                    code="base-differs",
                )

    def _check_twin(self, binding: Binding, *, module: str) -> None:
        """A head trained tied to the embeddings (`ensure_weight_tying`) must hold the same adapter, transposed."""
        others = {
            k.removeprefix(PREFIX).partition(".lora_")[0] for k in binding.adapter if not k.endswith(STORED)
        }
        for twin in others - {module}:
            first, second = _low_rank(self.layers[module]), _low_rank(self.layers[twin])
            if (
                first is None
                or second is None
                or not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
            ):
                raise _contradiction(binding, "they were to be trained as one and differ")


def _low_rank(layer: Any) -> tuple[torch.Tensor, ...] | None:
    """The layer's (A, B, scale), with A of shape (rank, hidden) and B of shape (vocabulary, rank)."""
    scale = torch.tensor(layer.scaling[ADAPTER])
    if ADAPTER in layer.lora_embedding_A:
        return layer.lora_embedding_B[ADAPTER].data.T, layer.lora_embedding_A[ADAPTER].data.T, scale
    if ADAPTER in layer.lora_A:
        return layer.lora_A[ADAPTER].weight.data, layer.lora_B[ADAPTER].weight.data, scale
    return None


def _check_loaded(layers: Mapping[str, Any], *, unexpected: list[str]) -> None:
    """No adapter tensor on meta (the merge would silently do nothing), none that PEFT dropped."""
    on_meta = [
        f"{module}.{name}"
        for module, layer in layers.items()
        for name, parameter in layer.named_parameters()
        if parameter.is_meta and not name.startswith("base_layer.")
    ]
    if on_meta or unexpected:
        raise InternalError(
            f"PEFT did not load {(on_meta or unexpected)[0]}.",
            advice="Report it with the adapter's config.",
            code="adapter-not-loaded",
        )


def _contradiction(binding: Binding, reason: str) -> RefusedError:
    return RefusedError(
        f"The adapter tensors {' and '.join(binding.adapter)} contradict each other: {reason}.",
        advice="Save the adapter again from the trained model.",
        code="contradiction",
    )
