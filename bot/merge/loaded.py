"""The whole base as transformers loads it: spread over devices and memory, the rest offloaded to the disk.

Weights are loaded without loss: in the narrowest dtype that holds every one that the base stores.
"""

from __future__ import annotations

import functools
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import transformers
from accelerate.utils import align_module_device
from transformers import PretrainedConfig
from transformers.utils import logging as _logging

from bot.errors import InternalError, RefusedError
from bot.merge.config import edited_config
from bot.merge.model import Names, build_virtual, config_of, find_names, load_config
from bot.records import Plan
from bot.weights.layout import Layout
from bot.weights.memory import available
from bot.weights.reader import TORCH_DTYPES

SHARE = 0.5  # of the free memory is for weights: one layer in float32, and what loading takes, need the rest
logging: Any = _logging  # its functions carry no types


class Loaded:
    """A loaded base, its parameters by name. What does not fit into `memory` bytes lies in a folder in `scratch`.

    Raises RefusedError when transformers cannot load the base, or loads it with tensors missing, of other shapes or
    passed over that the plan counts on.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        folder: Path,
        base: Layout,
        config: dict[str, Any],
        device: str,
        scratch: Path,
        memory: int | None = None,
    ) -> None:
        self._stack = ExitStack()
        edited = edited_config(config, {e.key: e.after for e in plan.config_edits})
        loaded = config_of(plan.model_class, load_config(edited, name="the base"))
        self.base = base
        self.names = find_names(build_virtual(loaded, model_class=plan.model_class), layout=base)
        self._parameters = {tensor: parameter for parameter, tensor in self.names.disk.items()}
        with ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix=".offload-", dir=scratch))
            limits = _limits(device, memory=memory)
            self.model, info = _load(
                plan, folder=folder, base=base, config=loaded, limits=limits, offload=name
            )
            self.mismatched = {str(entry[0]) for entry in info["mismatched_keys"]}
            self.notes = _check(info, plan=plan, names=self.names, model=self.model)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self.model
        self._stack.close()

    @property
    def offloaded(self) -> int:
        """How many parameters lie on the disk."""
        return sum(p.is_meta for p in self.model.parameters())

    def parameter_of(self, tensor: str) -> str | None:
        """The parameter that a tensor on disk was loaded as; None for one that has another form or shape there."""
        found = self._parameters.get(tensor)
        return None if found in self.mismatched else found

    def value(self, name: str) -> torch.Tensor:
        """A parameter, where it was put; from the disk, if it lies there. It is in memory as long as it is held."""
        module, _, kind = name.rpartition(".")
        owner = self.model.get_submodule(module)
        with align_module_device(owner):
            tensor: torch.Tensor = getattr(owner, kind).detach()
        if tensor.is_meta:
            raise InternalError(f"{name} was not loaded.", advice="Report it.", code="weights-on-meta")
        stored = self.base.tensors[self.names.disk[name]].dtype if name in self.names.disk else None
        if stored is not None and torch.promote_types(tensor.dtype, TORCH_DTYPES[stored]) != tensor.dtype:
            raise RefusedError(
                f"transformers loads {name} as {tensor.dtype}, which the base stores as {stored}.",
                advice="Leave out --way, so that the base's own tensors are merged.",
                code="whole-not-loaded",
            )
        return tensor


def _limits(device: str, *, memory: int | None) -> dict[int | str, int]:
    """How many bytes of weights go where."""
    limits: dict[int | str, int] = {"cpu": int(SHARE * available()) if memory is None else memory}
    return limits if device == "cpu" else {0: int(SHARE * torch.cuda.mem_get_info()[0]), **limits}


def _load(
    plan: Plan,
    *,
    folder: Path,
    base: Layout,
    config: PretrainedConfig,
    limits: dict[int | str, int],
    offload: str,
) -> tuple[Any, dict[str, Any]]:
    kinds = {TORCH_DTYPES[t.dtype] for t in base.tensors.values() if t.dtype in TORCH_DTYPES}
    floats = [kind for kind in kinds if kind.is_floating_point]
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            model, info = getattr(transformers, plan.model_class).from_pretrained(
                folder,
                config=config,
                dtype=functools.reduce(
                    torch.promote_types, floats, torch.bfloat16 if not floats else floats[0]
                ),
                device_map="auto",
                max_memory=limits,
                offload_folder=offload,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # what the adapter brings whole may have other rows: looked at below
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
    except Exception as error:  # transformers and accelerate raise what they like over files and devices
        line = next((text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__)
        raise RefusedError(
            f"transformers cannot load the base as {plan.model_class}: {line[:240].rstrip('.')}.",
            advice="Load it with transformers first; more memory helps where a layer did not fit.",
            code="whole-not-loaded",
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    return model.eval(), info


def _check(info: dict[str, Any], *, plan: Plan, names: Names, model: Any) -> tuple[str, ...]:
    """What transformers passed over, in words. Raises RefusedError for what the plan counts on."""
    bound = {b.parameter: b for b in plan.bindings}
    brought = {p for p, b in bound.items() if b.method.startswith("replace") or _stores_base(b.adapter)}
    brought |= {p for b in plan.bindings for p in names.shapes if any(k.endswith(f".{p}") for k in b.adapter)}
    elsewhere = {p for p, b in bound.items() if p not in names.disk and p not in names.converted}
    known = set(names.disk) | set(names.converted)
    mismatched = {str(entry[0]) for entry in info["mismatched_keys"]}
    odd = [
        *sorted(f"{k} is missing" for k in set(info["missing_keys"]) - names.missing - brought - elsewhere),
        *sorted(f"{k} has another shape" for k in mismatched - brought),
        *sorted(f"{k} is passed over" for k in set(info["unexpected_keys"]) & known),
        *(str(message).strip().split("\n")[0] for message in info.get("error_msgs") or ()),
    ]
    if not odd and (other := _other_shapes(model, names=names)):
        odd = [f"{other} is not as in the model that the plan was made with"]
    if odd:
        raise RefusedError(
            f"transformers does not load the base as {plan.model_class} as it was planned: {odd[0]}.",
            advice="Save the base once with a current transformers (save_pretrained) and name it with --base.",
            code="whole-not-loaded",
        )
    passed = sorted(set(info["unexpected_keys"]))
    if not passed:
        return ()
    what = f"{len(passed)} tensors of the base" if len(passed) > 1 else "one tensor of the base"
    return (f"{plan.model_class} has no place for {what} ({passed[0]}): copied as found",)


def _stores_base(keys: tuple[str, ...]) -> bool:
    return any(key.endswith(".base_layer.weight") for key in keys)


def _other_shapes(model: Any, *, names: Names) -> str | None:
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return min(
        (n for n in found.keys() | names.shapes.keys() if found.get(n) != names.shapes.get(n)), default=None
    )
