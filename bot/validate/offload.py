"""Runs models whose weights lie on the disk: accelerate's loader and hooks bring one layer's at a time into memory.

A weight that is not in memory is virtual: of its shape, with one stored element, and that is NaN. PEFT takes such a
model for one on the CPU (of one on the meta device it would move the adapter to meta as well, and add nothing without
a word), and whatever is computed from a weight that is not there shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_submodules
from accelerate.utils import OffloadedWeightsLoader
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bot.temporary import TemporaryFolder

SCALE = 0.02  # of a head that the base lacks: it starts at random, and the adapter brings it

UNREAD = (
    ".trainable_tokens_original."  # PEFT keeps the base's rows to take a merge back, and answers without them
)


class OffloadError(Exception):
    """This model or adapter cannot be run offloaded; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a weight belongs while its layer runs: `key` is its name in the store, `empty` what stands there else."""

    owner: nn.Module
    attribute: str
    key: str
    empty: nn.Parameter


class Disk:
    """The weights of one model at a time that lie on the disk. `folder` takes what is not there yet in a form to use.

    `memory`: bytes of weights that stay in memory, beside those of the layer that runs.
    """

    def __init__(self, folder: Path, *, memory: int) -> None:
        self._folder, self._memory = folder, memory
        self._weights: Any = None
        self._keys: dict[int, str] = {}  # id of a virtual parameter → its name in the store
        self._virtual: list[nn.Parameter] = []
        self._layers: frozenset[str] = frozenset()

    def load(self, kind: Any, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        """The model and transformers' loading info. What an earlier model had on the disk is gone."""
        for path in self._folder.iterdir():
            path.unlink()
        model, info = kind.from_pretrained(
            folder,
            device_map="auto",
            max_memory={"cpu": self._memory},
            offload_folder=str(self._folder),
            output_loading_info=True,
            **options,
        )
        index = _taken_over(model)
        model.__dict__.pop("hf_device_map", None)  # PEFT would offload on its own, and rewrite files
        self._weights = OffloadedWeightsLoader(index=index)
        self._layers = frozenset(model._no_split_modules or ())
        self._keys, self._virtual = {}, []
        self._make_virtual(model, index=index)
        return model.eval(), info

    def _make_virtual(self, model: Any, *, index: dict[str, Any]) -> None:
        if lost := [name for name, buffer in model.named_buffers() if buffer.is_meta]:
            raise OffloadError(f"its buffer {lost[0]} is not loaded")
        made: dict[int, nn.Parameter] = {}
        generator = torch.Generator().manual_seed(0)
        for name, parameter in list(model.named_parameters(remove_duplicate=False)):
            if not parameter.is_meta:
                continue
            if id(parameter) not in made and name in index and _shape(index[name]) == parameter.shape:
                made[id(parameter)] = self._kept(name, like=parameter)
            elif id(parameter) not in made and name not in model.all_tied_weights_keys:
                start = torch.randn(parameter.shape, generator=generator) * SCALE
                made[id(parameter)] = nn.Parameter(start.to(parameter.dtype), requires_grad=False)
        for name, parameter in list(model.named_parameters(remove_duplicate=False)):
            if parameter.is_meta and id(parameter) not in made:
                raise OffloadError(f"{name} is not loaded")
            if parameter.is_meta:
                _put(model, name, made[id(parameter)])

    def _kept(self, name: str, *, like: Tensor) -> nn.Parameter:
        """A virtual parameter; for a vector the value itself: adapters may bring biases, and they take no room."""
        if like.ndim > 1:
            return self._new(name, like=like)
        return nn.Parameter(self._weights[name].to(like.dtype), requires_grad=False)

    def _new(self, key: str, *, like: Tensor) -> nn.Parameter:
        empty = torch.full((), float("nan"), dtype=like.dtype).expand(like.shape)
        parameter = nn.Parameter(empty, requires_grad=False)
        self._virtual.append(parameter)
        self._keys[id(parameter)] = key
        return parameter

    def holds(self, parameter: Tensor | None) -> bool:
        """Whether the parameter's value is on the disk."""
        return id(parameter) in self._keys

    def read(self, parameter: Tensor) -> Tensor:
        """The value of a parameter, from wherever it is."""
        if not self.holds(parameter):
            return parameter.detach()
        value: Tensor = self._weights[self._keys[id(parameter)]].to(parameter.dtype)
        return value

    def store(self, key: str, value: Tensor, *, like: Tensor) -> nn.Parameter:
        """Writes a value under a name, and gives the parameter, of the dtype of `like`, that stands for it."""
        self._write(key, value)
        return self._new(key, like=like)

    def _write(self, key: str, value: Tensor) -> None:
        file = self._folder / f"{len(list(self._folder.iterdir()))}.stored.safetensors"
        save_file({"value": value.contiguous()}, file)
        self._weights.index[key] = {"safetensors_file": str(file), "weight_name": "value"}

    def round(self, dtype: torch.dtype) -> None:
        """From now on every weight on the disk is as a file of that dtype would hold it."""
        name = str(dtype).removeprefix("torch.")
        self._weights.index.update({k: {**entry, "dtype": name} for k, entry in self._weights.index.items()})

    @contextmanager
    def running(self, model: Any) -> Iterator[None]:
        """Meanwhile the model can be called, on the CPU. Where a layer uses another one's weights, it answers NaN."""
        self._attach(model)
        try:
            yield
        finally:
            remove_hook_from_submodules(model)

    def _attach(self, module: nn.Module) -> None:
        """Hooks on each layer as transformers names it, and on what is outside of them.

        PEFT's layers read the weight that they are wrapped around (DoRA), so they are one piece with it.
        """
        whole = type(module).__name__ in self._layers or isinstance(
            module, BaseTunerLayer | AuxiliaryTrainingWrapper
        )
        if places := self._places(module, deep=whole):
            add_hook_to_module(module, _Layer(places, weights=self._weights))
        if not whole:
            for child in module.children():
                self._attach(child)

    def _places(self, module: nn.Module, *, deep: bool) -> list[Place]:
        owners = list(module.modules()) if deep else [module]
        return [
            Place(owner=owner, attribute=name, key=self._keys[id(parameter)], empty=parameter)
            for owner in owners
            for name, parameter in owner._parameters.items()
            if parameter is not None and id(parameter) in self._keys
        ]

    def check(self, tuned: Any) -> None:
        """Raises OffloadError when PEFT has looked at weights, or changed them, while it put the adapter on."""
        found = dict(tuned.named_parameters(remove_duplicate=False))
        there = {id(parameter) for parameter in found.values()}
        if any(id(p) not in there or p.untyped_storage().nbytes() != p.element_size() for p in self._virtual):
            raise OffloadError("the adapter's start changes the base's weights")
        for name, tensor in (*found.items(), *tuned.named_buffers()):
            mine = tensor.is_floating_point() and not self.holds(tensor) and UNREAD not in name
            if mine and tensor.isnan().any():
                raise OffloadError(f"PEFT computes {name} from the base's weights")

    @torch.no_grad()
    def merge(self, tuned: Any, *, names: dict[str, torch.dtype]) -> None:
        """Merges the layers of these parameters of the base through PEFT, and stores them rounded to the dtypes."""
        layers: list[Any] = [module for module in tuned.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            places = [place for place in self._places(layer, deep=True) if place.key in names]
            only = getattr(layer, "parameter_name", None)  # two of them are nested around a stack of experts
            mine = [place for place in places if only in (None, place.attribute)]
            if mine:
                with self._opened(layer):
                    layer.merge(safe_merge=False, adapter_names=None)
                    for place in mine:
                        value = place.owner._parameters[place.attribute]
                        self._write(place.key, value.detach().to(names[place.key]))  # type: ignore[union-attr]

    @contextmanager
    def _opened(self, module: nn.Module) -> Iterator[None]:
        hook = _Layer(self._places(module, deep=True), weights=self._weights)
        hook.pre_forward(module)
        try:
            yield
        finally:
            hook.post_forward(module, None)


@contextmanager
def offloading(weights: int | None) -> Iterator[Disk | None]:
    """A disk to offload to, where `weights` says how many bytes of them stay in memory."""
    if weights is None:
        yield None
        return
    scratch = TemporaryFolder("offload")
    try:
        yield Disk(scratch.path, memory=weights)
    finally:
        scratch.close()


class _Layer(ModelHook):  # type: ignore[misc]  # accelerate has no types
    """Brings a layer's weights into memory while it runs; those that are tied within it, once."""

    def __init__(self, places: list[Place], *, weights: Any) -> None:
        self._places, self._weights = places, weights

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        del module
        read: dict[str, nn.Parameter] = {}
        for place in self._places:
            if place.key not in read:
                value = self._weights[place.key].to(place.empty.dtype)
                read[place.key] = nn.Parameter(value, requires_grad=False)
            place.owner._parameters[place.attribute] = read[place.key]
        return args, kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        del module
        for place in self._places:
            place.owner._parameters[place.attribute] = place.empty
        return output


def _taken_over(model: Any) -> dict[str, Any]:
    """Where transformers says that the offloaded weights lie. Its hooks are gone, and the ban on moving the model."""
    index: dict[str, Any] = {}
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for part in (hook, *getattr(hook, "hooks", ())):
            if (weights := getattr(part, "weights_map", None)) is not None:
                index = weights.dataset.index
                part.original_devices = {}  # else what no file has is looked for, to be put back
    remove_hook_from_submodules(model)
    return dict(index)


def _shape(entry: dict[str, Any]) -> torch.Size:
    with safe_open(entry["safetensors_file"], framework="pt") as file:
        return torch.Size(file.get_slice(entry["weight_name"]).get_shape())


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, parameter)
