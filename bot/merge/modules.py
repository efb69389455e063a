"""Merges one module at a time through PEFT's own layer code, in float32, on a base that is otherwise virtual."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import set_peft_model_state_dict
from peft.tuners import lora
from torch import nn

from bot.errors import InternalError, RefusedError
from bot.merge import parity
from bot.merge.called import check_silent
from bot.merge.conversion import Converter, Group
from bot.merge.model import build_virtual, find_names, load_config
from bot.merge.operations import TRAINING_ONLY, plain_name
from bot.merge.piece import TASK, spans
from bot.merge.reinit import redo
from bot.merge.skeleton import ADAPTER, PREFIX, Target, inject, peft_config, targets
from bot.records import Binding, Plan
from bot.weights.layout import Layout

Read = Callable[[str], torch.Tensor]
STORED = ".base_layer.weight"
WRAPPED = (".original_module.", ".modules_to_save.")  # further copies that PEFT saves with a grown vocabulary
# PEFT's config of a model that is none of transformers'. The adapter has today's names by now (bot.merge.renaming):
# PEFT would rename them once more, and where a rule fits its own result (Laguna's shared_experts) drop what it renamed.
CUSTOM = {"model_type": "custom"}
SAME = 2**-7  # how far a stored copy of the base may be off after a detour through another 16-bit dtype


class ModuleMerger:
    """Holds the adapter's layers; base weights pass through, one module at a time.

    `dtype` is what the arithmetic is done in: float32 to merge, float64 for a reference. `as_peft`: the base keeps
    its own dtype instead, as in PEFT's own merge; the adapter is in float32 all the same.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        config: dict[str, Any],
        base: Layout,
        adapter: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        as_peft: bool = False,
    ) -> None:
        self.adapter = adapter
        self.device = device
        self.dtype = dtype
        self.stored = parity.dtype_of(base) if as_peft else None
        self.init = plan.adapter_config.get("init_lora_weights")
        self.config = parity.peft_config(plan.adapter_config) if as_peft else peft_config(plan.adapter_config)
        model = build_virtual(load_config(config, name="the base"), model_class=plan.model_class, dtype=dtype)
        self._base = base
        self._groups = find_names(model, layout=base).converted
        self._converter = Converter(build_virtual(model.config, model_class=plan.model_class))
        self._converter.learn(base.tensors)
        self.peft_model = peft_model = inject(model, config=self.config)
        check_silent(peft_model, adapter)
        tensors = {
            k: v.to(dtype) if v.is_floating_point() else v
            for k, v in adapter.items()
            if not k.endswith(STORED) and not any(wrapper in k for wrapper in WRAPPED)
        }
        if not as_peft:
            vars(peft_model)["config"] = CUSTOM
        loaded: Any = set_peft_model_state_dict(
            peft_model, tensors, adapter_name=ADAPTER, low_cpu_mem_usage=True
        )
        vars(peft_model).pop("config", None)
        if self.stored:
            parity.round_generated(peft_model, dtype=self.stored)
            if plan.peft_type == "ADALORA":
                masks = plan.adapter_config.get("rank_pattern") or ()
                parity.round_pruned(peft_model, masks, dtype=self.stored)
        every = list(targets(peft_model))
        found = [t for t in every if t.source is None]
        _check_loaded(found, unexpected=[k for k in loaded.unexpected_keys if TRAINING_ONLY not in k])
        self._targets = {parameter: target for target in found for parameter in target.parameters}
        by_layer = {id(t.layer): t for t in found}
        for twin in (
            t for t in every if t.source is not None
        ):  # a head that lies on disk beside its embeddings
            owner = by_layer[id(twin.source)]
            self._targets |= {p: replace(owner, parameters=(p,)) for p in twin.parameters}
        self._bindings = {b.parameter: b for b in plan.bindings}
        self._tensors = {b.tensor for b in plan.bindings}
        self._saved = _saved(plan.bindings, parameters=self._groups)
        self._held: dict[str, torch.Tensor] = {}

    def merge(self, binding: Binding, read: Read) -> torch.Tensor:
        """The merged tensor, not yet rounded, of the binding's shape, on the merger's device.

        `read` gives a tensor of the base as on disk. Every layer is merged once: what it changes beside this tensor
        is held until it is asked for. Raises RefusedError when adapter tensors contradict each other or the base.
        """
        if binding.method == "replace":
            return self._replacement(binding)
        if binding.method == "copy":
            return read(str(binding.source))
        if binding.tensor not in self._held:
            self._held.update(self._converted(binding, read) or self._together(binding, read))
        return self._held.pop(binding.tensor)

    def is_low_rank(self, binding: Binding) -> bool:
        """Whether the binding is W + s·BA (or DoRA of it) by rows: a linear layer, not transposed, or an embedding."""
        if binding.method not in {"lora", "dora"} or self.dtype != torch.float32 or self.stored:
            return False
        layer = self._targets[binding.parameter].layer
        if type(layer) is lora.Embedding:
            # DoRA's norm runs over all tokens there; a grown one starts from rows that the base has not
            return binding.method == "lora" and self._base.tensors[str(binding.source)].shape == binding.shape
        alone = len(self._targets[binding.parameter].parameters) == 1
        return type(layer) is lora.Linear and not layer.fan_in_fan_out and alone

    def check(self, binding: Binding, read: Read) -> None:
        """Raises RefusedError when the adapter's tensors contradict each other or the base."""
        self._check_stored(binding, read(str(binding.source)))
        self._check_twin(binding, target=self._targets[binding.parameter])

    def _together(self, binding: Binding, read: Read) -> dict[str, torch.Tensor]:
        """What the binding's layer changes, by tensor."""
        target = self._targets[binding.parameter]
        bindings = [self._bindings[p] for p in target.parameters if p in self._bindings]
        sources = {b.parameter: self._source(b, read(str(b.source))) for b in bindings}
        self.check(binding, read)
        merged = self._merge_layer(target.layer, sources)
        return {b.tensor: merged[b.parameter] for b in bindings}

    def _converted(self, binding: Binding, read: Read) -> dict[str, torch.Tensor]:
        """The tensors of a group that lies on disk in another form; empty for a tensor that is a parameter."""
        group = self._groups.get(binding.parameter)
        if group is None:
            return {}
        values = self._converter.forward(group, {name: read(name) for name in group.tensors})
        return self._changed_group(group, values)

    def _changed_group(self, group: Group, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The group's tensors after the merge, as the plan wants them stored, from its parameters before."""
        values = {name: value.to(self.device) for name, value in values.items()}
        for parameter in group.parameters:
            target = self._targets.get(parameter)
            if parameter in self._saved:
                values[parameter] = self._same(self._saved[parameter]).to(self.device)
            elif target is not None:
                values.update(self._merge_layer(target.layer, {parameter: values[parameter]}))
        if group.parameters[0] in self._tensors:  # under today's names
            return values
        return self._converter.backward(group, values)

    def _merge_layer(self, layer: Any, sources: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Parameters after the merge, by name, from `sources`, as on disk."""
        base: nn.Module = layer.get_base_layer()
        virtual = dict(base._parameters)
        names = {parameter.rpartition(".")[2]: parameter for parameter in sources}
        for kind, parameter in names.items():
            source = sources[parameter]
            # A copy, never the mapped file itself: merge() adds in place.
            kind_of_sum = self.stored or torch.promote_types(source.dtype, self.dtype)
            real = source.to(self.device, kind_of_sum, copy=True)
            base._parameters[kind] = nn.Parameter(real, requires_grad=False)
        layer.to(self.device)
        redo(layer, config=self.config, init=self.init, as_peft=self.stored is not None)
        layer.merge(safe_merge=False, adapter_names=[ADAPTER])  # safe_merge would round the delta first
        after = layer.get_base_layer()  # some layers put another module in the base's place
        merged = {parameter: after._parameters[kind].data for kind, parameter in names.items()}
        for module in (base, after):
            module._parameters.update(virtual)
        layer.merged_adapters.clear()  # a twin on disk is merged through the same layer
        return merged

    def _replacement(self, binding: Binding) -> torch.Tensor:
        return self._same(binding.adapter)

    def _same(self, keys: Sequence[str]) -> torch.Tensor:
        first, *others = (self.adapter[k] for k in keys)
        if any(not torch.equal(first, other) for other in others):
            raise _contradiction(keys, "they share their storage and hold different values")
        return first

    def _source(self, binding: Binding, source: torch.Tensor) -> torch.Tensor:
        """What the layer starts from: the adapter's own copy of the base where tokens were added to it."""
        if tuple(source.shape) == binding.shape:
            return source
        return next(self.adapter[k] for k in binding.adapter if k.endswith(STORED))

    def _check_stored(self, binding: Binding, source: torch.Tensor) -> None:
        """The copy of the base that PEFT saves with a targeted embedding must be this base's, but for added rows."""
        for key in (k for k in binding.adapter if k.endswith(STORED)):
            stored = self.adapter[key]
            if stored.shape == binding.shape:
                stored = stored[: source.shape[0]]
            if not is_copy(stored, source):
                raise RefusedError(
                    f"The adapter stores the base's {binding.source}, and it is not the one of this base.",
                    advice="The adapter was trained on another model: name it with --base.",
                    code="base-differs",
                )

    def _check_twin(self, binding: Binding, *, target: Target) -> None:
        """A head trained tied to the embeddings must hold the same adapter, transposed where it has to be."""
        others = {k.removeprefix(PREFIX).partition(".lora_")[0] for k in binding.adapter if ".lora_" in k}
        for twin in others - {target.path} if binding.method in {"lora", "dora"} else ():
            first, second = _low_rank(target.layer), _low_rank(self._targets[f"{twin}.weight"].layer)
            if first is None or second is None or not all(map(torch.equal, first, second)):
                raise _contradiction(binding.adapter, "they were to be trained as one and differ")
        deltas = [self.adapter[k] for k in binding.adapter if k.endswith("trainable_tokens_delta")]
        if any(not torch.equal(deltas[0], delta) for delta in deltas[1:]):
            raise _contradiction(binding.adapter, "they were to be trained as one and differ")


def is_copy(stored: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether an adapter's copy of a base's matrix is one of `source`, if perhaps by way of another dtype."""
    return stored.shape == source.shape and all(
        torch.allclose(stored[i:j].float(), source[i:j].float(), rtol=SAME, atol=1e-6)
        for i, j in spans(0, source.shape[0], columns=source.shape[1], numbers=TASK)
    )


def _low_rank(layer: Any) -> tuple[torch.Tensor, ...] | None:
    """The layer's (A, B, scale), with A of shape (rank, hidden) and B of shape (vocabulary, rank)."""
    scale = torch.tensor(layer.scaling[ADAPTER])
    if ADAPTER in layer.lora_embedding_A:
        return layer.lora_embedding_B[ADAPTER].data.T, layer.lora_embedding_A[ADAPTER].data.T, scale
    if ADAPTER in layer.lora_A:
        return layer.lora_A[ADAPTER].weight.data, layer.lora_B[ADAPTER].weight.data, scale
    return None


def _check_loaded(found: Iterable[Target], *, unexpected: list[str]) -> None:
    """No adapter tensor on meta (the merge would silently do nothing), none that PEFT dropped."""
    on_meta = [
        f"{target.path}.{name}"
        for target in found
        for name, tensor in (*target.layer.named_parameters(), *target.layer.named_buffers())
        if tensor.is_meta and not name.startswith("base_layer.")
    ]
    if on_meta or unexpected:
        raise InternalError(
            f"PEFT did not load {(on_meta or unexpected)[0]}.",
            advice="Report it with the adapter's config.",
            code="adapter-not-loaded",
        )


def _saved(bindings: Iterable[Binding], *, parameters: Container[str]) -> dict[str, list[str]]:
    """The adapter's tensors that take the place of a parameter that lies on disk in another form."""
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(k for b in bindings for k in b.adapter):
        parameter = plain_name(key.removeprefix(PREFIX))
        if parameter in parameters:
            found.setdefault(parameter, []).append(key)
    return found


def _contradiction(keys: Sequence[str], reason: str) -> RefusedError:
    return RefusedError(
        f"The adapter tensors {' and '.join(keys)} contradict each other: {reason}.",
        advice="Save the adapter again from the trained model.",
        code="contradiction",
    )
