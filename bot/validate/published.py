"""The merged model as everybody will load it: by transformers alone, with PEFT installed, from a folder or by its id.

The other checks prove the files. This one compares the model that is loaded of them with the files: an adapter that is
put on top, or other weights that are taken in their place, show here.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion

from bot.records import Check, Plan
from bot.validate.models import LOCAL, model_type, parameter_names
from bot.validate.quiet import quiet, sentence
from bot.weights.files import LocalFiles
from bot.weights.layout import Layout, read_layout
from bot.weights.memory import available
from bot.weights.reader import TensorReader
from bot.wording import counted, few, size

CONFIG = "config.json"
MOST = 16  # changed tensors that are compared: whatever is loaded wrongly is so for a whole file, or for all of them
SPARE = 300 * 2**20  # bytes: what loading needs beside the weights
SHARE = 0.5  # of the free memory is for weights, when they do not fit
GOOD = "Plain transformers loads it beside PEFT, no adapter is put on top, and its changed tensors are the files'."


def check_published(
    place: Path | str, *, name: str, plan: Plan, merged: Path, model_class: str, cache: Path | None = None
) -> Check:
    """The check `name`: what `from_pretrained(place)` of that class gives, against the files in `merged`.

    `place` is a folder, or `owner/name@commit` in the Hub's `cache`; the network is not asked. What does not fit into
    memory is offloaded to the disk; where that cannot be, the check is skipped.
    """
    layout = read_layout(LocalFiles(merged))
    need, free = _needed(layout, merged) + SPARE, available()
    lack = f"Loading needs {size(need)} of memory, {size(free)} are free"
    with quiet(), tempfile.TemporaryDirectory() as offload:
        if need > free and disk_usage(offload).free < need:  # experts are written once more, stacked
            detail = f"{lack}, and there is not as much disk either to offload it to."
            return Check(name=name, verdict="skipped", figure="", detail=detail)
        spread = {} if need <= free else _spread(offload, memory=int(SHARE * free))
        try:
            kind = _kind(model_class, plan=plan, merged=merged)
            model = kind.from_pretrained(**_named(place, cache), **spread, **LOCAL)
        except Exception as error:  # noqa: BLE001  # transformers and strangers' files raise what they like
            detail = f"transformers does not load it: {sentence(error)}."
            if not spread:
                return Check(name=name, verdict="failed", figure="", detail=detail)
            return Check(name=name, verdict="skipped", figure="", detail=f"{lack}; offloaded, {detail}")
        return _compared(model, name=name, plan=plan, merged=merged, layout=layout)


def _needed(layout: Layout, merged: Path) -> int:
    """Bytes of the weights as they are loaded: in the config's dtype, where that is the wider one."""
    with (merged / CONFIG).open("rb") as file:
        config = json.load(file)
    named = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    width = named.itemsize if isinstance(named, torch.dtype) else 0
    return sum(max(t.size, width * math.prod(t.shape)) for t in layout.tensors.values())


def _kind(model_class: str, *, plan: Plan, merged: Path) -> Any:
    """The Auto class where it leads to the model's own class, else that one: some classes no Auto class knows."""
    kind = model_type(model_class)
    mapping = getattr(kind, "_model_mapping", None)
    if mapping is None:
        return kind
    config = type(AutoConfig.from_pretrained(merged, **LOCAL))
    found = mapping.get(config, ())
    names = {one.__name__ for one in (found if isinstance(found, tuple) else (found,))}
    return kind if plan.model_class in names else model_type(plan.model_class)


def _named(place: Path | str, cache: Path | None) -> dict[str, Any]:
    if isinstance(place, Path):
        return {"pretrained_model_name_or_path": place, "dtype": "auto"}
    repo_id, _, commit = place.partition("@")
    return {
        "pretrained_model_name_or_path": repo_id,
        "revision": commit,
        "cache_dir": cache,
        "dtype": "auto",
    }


def _spread(offload: str, *, memory: int) -> dict[str, Any]:
    return {"device_map": "auto", "max_memory": {"cpu": memory}, "offload_folder": offload}


def _compared(model: Any, *, name: str, plan: Plan, merged: Path, layout: Layout) -> Check:
    kind = type(model).__name__
    if getattr(model, "_hf_peft_config_loaded", False):
        detail = "transformers puts an adapter on top of the merged weights: the delta is there twice."
        return Check(name=name, verdict="failed", figure=kind, detail=detail)
    changed = sorted({b.tensor for p in (plan.stages or (plan,)) for b in p.bindings} & set(layout.tensors))
    parameters = parameter_names(model, _some(changed))
    with TensorReader(merged, layout=layout) as reader:
        same = {t: _is_there(model, t, reader.read(t), parameter=p) for t, p in parameters.items()}
    wrong = [tensor for tensor, equal in same.items() if equal is False]
    looked = sum(equal is not None for equal in same.values())
    figure = f"{kind}, {looked} of {counted(len(changed), 'changed tensor')}"
    if wrong:
        detail = f"Loaded otherwise than the files have them: {few(wrong)}."
        return Check(name=name, verdict="failed", figure=figure, detail=detail)
    if not looked:
        detail = "It loads without an adapter on top; its changed tensors have another form than the files'."
        return Check(name=name, verdict="skipped", figure=figure, detail=detail)
    return Check(name=name, verdict="passed", figure=figure, detail=GOOD)


def _some(names: list[str]) -> Iterable[str]:
    """The first, the last, and others evenly between them."""
    count = min(MOST, len(names))
    return (names[i * (len(names) - 1) // max(1, count - 1)] for i in range(count))


def _is_there(model: Any, tensor: str, stored: Tensor, *, parameter: str) -> bool | None:
    """Whether the loaded model has the tensor's very numbers; None for one that it keeps in a form not known here."""
    try:
        value = _value(model, parameter)
    except AttributeError:  # no such parameter: something else was loaded, or it was wrapped
        return False
    if _equal(value, stored):
        return True
    try:  # stacked, split or turned round as it was loaded: back into the form of the file
        back = revert_weight_conversion(model, {parameter: value})
    except Exception:  # noqa: BLE001  # a form that takes more than this one parameter, and a library that says it anyhow
        back = {}
    if tensor in back:
        return _equal(back[tensor], stored)
    return False if value.shape == stored.shape else None


def _value(model: Any, parameter: str) -> Tensor:
    """A parameter or buffer, from the disk if it lies there. Raises AttributeError when the model has none."""
    module, _, kind = parameter.rpartition(".")
    owner = model.get_submodule(module)
    with align_module_device(owner):
        value: Tensor = getattr(owner, kind).detach()
    return value


def _equal(value: Tensor, stored: Tensor) -> bool:
    """Bit for bit, once the file's numbers have the dtype in which the model keeps them."""
    return value.shape == stored.shape and torch.equal(value.cpu(), stored.to(value.dtype))
