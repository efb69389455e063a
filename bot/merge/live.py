"""The adapter's layers as the live model has them: PEFT's forward pass on the base's weights, one layer in memory.

Beside each, the plain layer with the weights of a merged folder: the two have to answer alike (`bot.validate.modules`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from bot.merge.modules import ModuleMerger, Read
from bot.merge.parameters import Parameters
from bot.merge.reinit import redo
from bot.merge.skeleton import ADAPTER
from bot.merge.stack import chain, load_stages, stage_config
from bot.merge.today import CONVERTED
from bot.records import Plan
from bot.weights.experts import rearranged
from bot.weights.files import LocalFiles
from bot.weights.layout import Layout, read_layout
from bot.weights.reader import TensorReader, read_tensors

UNCHANGED = frozenset({"copy", CONVERTED})  # bindings that hold nothing of the adapter
CPU, FLOAT = torch.device("cpu"), torch.float32  # as in training


class LiveLayers(ModuleMerger):
    """Every layer that the adapter changes. Nothing is read before a layer is asked.

    `read` gives a tensor of the base, whose layout is `base`; `after`: the merged model.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        read: Read,
        config: dict[str, Any],
        base: Layout,
        adapter: Mapping[str, Tensor],
        after: Parameters,
    ) -> None:
        super().__init__(plan, config=config, base=base, adapter=adapter, device=CPU, dtype=FLOAT)
        self.after = after
        self._before = Parameters(
            read, layout=base, config=config, name="the base", model_class=plan.model_class
        )

    def __iter__(self) -> Iterator[LiveLayer]:
        for module in dict.fromkeys(name.rpartition(".")[0] for name in self._changed()):
            found = self._found(module)
            if not isinstance(found, ParamWrapper):
                yield LiveLayer(module, layer=found, source=self)
            while isinstance(found, ParamWrapper):
                yield LiveLayer(module, layer=found, source=self, parameter=found.parameter_name)
                found = found.base_layer

    def _changed(self) -> Iterator[str]:
        """The parameters that the adapter changes, also those that are stored together with another one."""
        for binding in (b for b in self._bindings.values() if b.method not in UNCHANGED):
            group = self._groups.get(binding.parameter)
            if group is None:
                yield binding.parameter
            else:
                yield from (p for p in group.parameters if p in self._targets or p in self._saved)

    def _found(self, module: str) -> nn.Module:
        """What the live model calls there: the tuner layer, the saved copy, or the module itself."""
        found: Any = self.peft_model.get_base_model()
        for part in module.split("."):
            found = _unwrapped(found)
            found = found.get_base_layer() if isinstance(found, BaseTunerLayer) else found
            found = found._modules[part]
        layer: nn.Module = _unwrapped(found)
        return layer

    def base(self, parameter: str) -> Tensor | None:
        """What a layer starts from; None where only the adapter brings it."""
        binding = self._bindings.get(parameter)
        if binding is None or binding.source is None or parameter in self._groups:
            return self._before.get(parameter)
        return self._source(binding, self._before.read(binding.source))

    def origins(self, parameter: str) -> tuple[str, ...]:
        """The tensors of the base that `base` reads."""
        binding = self._bindings.get(parameter)
        if binding is None or binding.source is None or parameter in self._groups:
            return self._before.tensors(parameter)
        return (binding.source,)

    def brought(self, parameter: str) -> Tensor | None:
        """The adapter's own tensor, for a parameter that it replaces."""
        binding = self._bindings.get(parameter)
        replaced = binding is not None and binding.method == "replace"
        keys = binding.adapter if binding and replaced else self._saved.get(parameter)
        return self._same(keys) if keys else None


class LiveLayer:
    """One layer. `plain` is the module without the adapter; it holds weights only while it is asked.

    `parameter`: the one that is asked for itself, for stacks of experts. They have a forward pass of their own, which
    needs a router; what the adapter does to it is the product with one parameter, which PEFT replaces for as long as
    the module is called. `parameters`: full names by the module's own.
    """

    def __init__(
        self, module: str, *, layer: nn.Module, source: LiveLayers, parameter: str | None = None
    ) -> None:
        self.name = f"{module}.{parameter}" if parameter else module
        self.parameter = parameter
        self.plain: nn.Module = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
        self._layer: Any = layer
        self._source = source
        kinds = [parameter] if parameter else [k for k, p in self.plain._parameters.items() if p is not None]
        self.parameters = {kind: f"{module}.{kind}" for kind in kinds}

    @property
    def additive(self) -> bool:
        """Whether the adapter adds a product of two matrices: it has nothing to do with how the weight is rounded."""
        return isinstance(self._layer, LoraLayer) and not self._layer.lora_variant

    @property
    def tokens(self) -> tuple[int, ...]:
        """The rows that the layer changes, where those are few and known."""
        found = getattr(self._layer, "token_indices", None)
        return tuple(found[ADAPTER]) if found else ()

    @property
    def tensors(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of what is read when it is asked: of the base, and of the merged folder."""
        names = self.parameters.values()
        before = frozenset(t for name in names for t in self._source.origins(name))
        return before, frozenset(t for name in names for t in self._source.after.tensors(name))

    @torch.no_grad()
    def live(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """The plain layer's answer with the base's weights, and the adapter's, in float32.

        The first is None where the base lacks a weight, or has fewer tokens. Raises LookupError for what neither holds.
        """
        names = self.parameters.items()
        base = {k: t for k, name in names if (t := self._source.base(name)) is not None}
        brought = {k: t for k, name in names if (t := self._source.brought(name)) is not None}
        if lost := [name for kind, name in names if kind not in base and kind not in brought]:
            raise LookupError(f"neither base nor adapter holds {lost[0]}")
        whole = all(k in base and base[k].shape == getattr(self.plain, k).shape for k in self.parameters)
        before = None
        if whole:
            with _filled(self.plain, base):
                before = self._ask(self.plain, x)
                if not brought:
                    return before, self._ask_live(x)
        with _filled(self.plain, base | brought):
            return before, self._ask_live(x)

    def weights(self) -> dict[str, Tensor]:
        """The merged folder's weights, as stored. Raises LookupError for those that it does not hold."""
        found = {kind: self._source.after.get(name) for kind, name in self.parameters.items()}
        if lost := [self.parameters[kind] for kind, tensor in found.items() if tensor is None]:
            raise LookupError(f"the merged model has no {lost[0]}")
        return {kind: tensor for kind, tensor in found.items() if tensor is not None}

    @torch.no_grad()
    def merged(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """The plain layer's answer with these weights."""
        with _filled(self.plain, weights):
            return self._ask(self.plain, x)

    def _ask_live(self, x: Tensor) -> Tensor:
        if self._layer is self.plain:
            return self._ask(self.plain, x)
        # as the merge does it: where singular values lie close, float32 finds other directions at every start
        redo(self._layer, config=self._source.config, init=self._source.init, as_peft=False)
        if self.parameter is None:
            return self._ask(self._layer, x)
        with self._layer._activate_lora([ADAPTER]):
            return self._ask(self.plain, x)

    def _ask(self, layer: nn.Module, x: Tensor) -> Tensor:
        found = layer(x) if self.parameter is None else x @ getattr(layer, self.parameter)
        if not isinstance(found, Tensor):
            raise TypeError(f"a {type(self.plain).__name__} answers with more than numbers")
        return found


def live_layers(
    plan: Plan, *, base_folder: Path, base: Layout, config: dict[str, Any], adapter_path: Path, merged: Path
) -> Iterator[LiveLayer]:
    """The layers of base + adapter, beside those of the folder `merged`. `config` is the base's config.json.

    Raises MergeBotError where PEFT does not take the adapter, or a config cannot be loaded.
    """
    theirs = read_layout(LocalFiles(merged))
    after = Parameters(
        TensorReader(merged, layout=theirs).read,
        layout=theirs,
        config=json.loads((merged / "config.json").read_text(encoding="utf-8")),
        name="the merged model",
        model_class=plan.model_class,
    )
    reader = TensorReader(base_folder, layout=base)
    if plan.stages:
        adapters = load_stages(plan, adapter_path=adapter_path)
        stages = chain(
            plan, config=config, reader=reader, adapters=adapters, device=CPU, wide=lambda _: FLOAT
        )
        return _last(
            [
                LiveLayers(
                    s.plan, read=s.before, config=s.config, base=s.layout, adapter=s.adapter, after=after
                )
                for s in stages
            ]
        )
    adapter = rearranged(read_tensors(adapter_path, renamed=plan.renamed), experts=plan.experts)
    edited = stage_config(config, plan)
    return iter(LiveLayers(plan, read=reader.read, config=edited, base=base, adapter=adapter, after=after))


def _last(stages: Sequence[LiveLayers]) -> Iterator[LiveLayer]:
    """Of adapters one after the other each layer's last one: it starts from what those before it have made."""
    later: set[str] = set()
    for layers in reversed(stages):
        yield from (layer for layer in layers if layer.name not in later)
        later |= {layer.name for layer in layers}


def _unwrapped(module: Any) -> Any:
    """What a wrapper of PEFT hands its input to."""
    if isinstance(module, ModulesToSaveWrapper):
        return module.modules_to_save[ADAPTER]
    return module.token_adapter if isinstance(module, TrainableTokensWrapper) else module


@contextmanager
def _filled(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Gives a virtual module weights in float32. Its buffers (an embedding's scale) are one: they are in no weight."""
    parameters, buffers = dict(module._parameters), dict(module._buffers)
    for kind, weight in weights.items():
        module._parameters[kind] = nn.Parameter(weight.to(FLOAT, copy=True), requires_grad=False)
    for name, buffer in buffers.items():
        module._buffers[name] = None if buffer is None else torch.ones(buffer.shape, dtype=buffer.dtype)
    try:
        yield
    finally:
        module._parameters.update(parameters)
        module._buffers.update(buffers)
