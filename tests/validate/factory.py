"""Good merges for the validator, made without our engine: PEFT's own merge in float32, a plan written by hand."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bot.progress import Silent
from bot.records import AddedTensor, Binding, ConfigEdit, Estimate, Pinned, Plan, Report, Sidecar
from bot.request import MergeRequest, Way
from bot.validate.reference import formula
from bot.validate.run import Subject, validate
from bot.validate.sources import ArrayRows
from bot.weights.files import LocalFiles
from bot.weights.layout import INDEX, Layout, read_layout
from bot.weights.reader import TORCH_DTYPES
from tests.tiny.adapters import live, save_adapter
from tests.tiny.models import save_base

PREFIX = "base_model.model."
MARKS = (
    ".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector", ".base_layer.weight",
)  # fmt: skip
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Case:
    """A merged folder, what it was made from, and the plan."""

    base: Path
    adapter: Path
    merged: Path
    plan: Plan

    @property
    def layout(self) -> Layout:
        return read_layout(LocalFiles(self.base))

    def report(self, level: Way = "full", *, thorough: bool = False) -> Report:
        asked = MergeRequest(adapter=str(self.adapter), device="cpu", validation=level, thorough=thorough)
        return validate(
            Subject(
                merged=self.merged,
                plan=self.plan,
                base_folder=self.base,
                base=self.layout,
                adapter_folder=self.adapter,
                request=asked,
                progress=Silent(),
            )
        )

    def failed(self, level: Way = "full", *, thorough: bool = False) -> set[str]:
        """The names of the failed checks."""
        return {
            check.name for check in self.report(level, thorough=thorough).checks if check.verdict == "failed"
        }

    def copy(self, folder: Path) -> "Case":
        """The same case with a merged folder of its own, to be broken."""
        return replace(self, merged=Path(shutil.copytree(self.merged, folder / "broken")))


def make(
    folder: Path,
    architecture: str,
    config: dict[str, Any],
    *,
    dtype: str = "float32",
    shards: int | None = None,
    scale: float | None = None,
) -> Case:
    """A base, an adapter and their merge. `scale` multiplies the adapter's effect."""
    base = save_base(folder / "base", architecture, dtype=dtype, shards=shards)
    adapter = save_adapter(folder / "adapter", base, config=config, architecture=architecture)
    if scale is not None:
        edit(adapter, lambda tensors: {n: t * (scale if "lora_B" in n else 1) for n, t in tensors.items()})
    return assemble(folder / "merged", base=base, adapter=adapter, values=peft_merge(base, adapter))


def rows_of(tensor: Tensor) -> ArrayRows:
    """A tensor of torch as the proof reads it."""
    names = {kind: name for name, kind in TORCH_DTYPES.items()}
    raw = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return ArrayRows(raw.detach().contiguous().numpy(), dtype=names[tensor.dtype])


def reference(
    binding: Binding, *, source: Tensor | None, adapter: dict[str, Tensor], config: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """What a whole tensor must be, and its elements' bounds."""
    found = formula(
        binding,
        source=None if source is None else rows_of(source),
        adapter={name: rows_of(tensor) for name, tensor in adapter.items()},
        config=config,
    )
    rows, columns = found.shape
    whole = found.rows(np.arange(rows))
    places = np.divmod(np.arange(rows * columns), columns)
    bound, _ = whole.tolerance.at(whole.value[places], *places)
    return tuple(torch.from_numpy(part).reshape(binding.shape) for part in (whole.value, bound))


def peft_merge(base: Path, adapter: Path) -> dict[str, Tensor]:
    """The merged model's parameters in float32, by PEFT."""
    return live(base, adapter).merge_and_unload().state_dict()


def assemble(
    merged: Path,
    *,
    base: Path,
    adapter: Path,
    values: dict[str, Tensor],
    bindings: list[Binding] | None = None,
    edits: tuple[ConfigEdit, ...] = (),
) -> Case:
    """Copies the base and puts the changed tensors' values in, rounded to the dtype on disk."""
    shutil.copytree(base, merged)
    layout = read_layout(LocalFiles(base))
    bound = bind(adapter, layout=layout) if bindings is None else bindings
    changed = {b.tensor: values[b.parameter] for b in bound}
    edit(merged, lambda tensors: tensors | {n: _stored(v, layout, n) for n, v in changed.items()})
    path = merged / "config.json"
    config = json.loads(path.read_text()) | {edit.key: edit.after for edit in edits}
    path.write_text(json.dumps(config))
    return Case(base, adapter, merged, plan(base, adapter, layout=layout, bindings=bound, edits=edits))


def _stored(value: Tensor, layout: Layout, name: str) -> Tensor:
    kinds = TORCH_DTYPES
    spec = layout.tensors.get(name) or next(iter(layout.tensors.values()))
    return value.to(kinds[spec.dtype]).contiguous().clone()


def bind(adapter: Path, *, layout: Layout) -> list[Binding]:
    """Bindings by the names in the adapter's file; for bases whose names on disk are those of the model."""
    groups: dict[tuple[str, str], list[str]] = {}
    for key in sorted(load_file(adapter / "adapter_model.safetensors")):
        groups.setdefault(_target(key.removeprefix(PREFIX)), []).append(key)
    dora = json.loads((adapter / "adapter_config.json").read_text()).get("use_dora")
    found = []
    for (tensor, method), keys in groups.items():
        spec = layout.tensors[tensor]
        kind = "dora" if method == "lora" and dora else method
        source = None if method == "replace" else tensor
        found.append(
            Binding(
                tensor=tensor,
                source=source,
                parameter=tensor,
                method=kind,
                adapter=tuple(keys),
                shape=spec.shape,
                dtype=spec.dtype,
            )
        )
    return found


def _target(key: str) -> tuple[str, str]:
    for mark in MARKS:
        module, found, rest = key.partition(mark)
        if found:
            return (f"{module}.bias", "lora_bias") if rest == ".bias" else (f"{module}.weight", "lora")
    return key.replace(".modules_to_save", "").replace(".base_layer", ""), "replace"


def plan(
    base: Path, adapter: Path, *, layout: Layout, bindings: list[Binding], edits: tuple[ConfigEdit, ...] = ()
) -> Plan:
    config = json.loads((adapter / "adapter_config.json").read_text())
    added = [b for b in bindings if b.tensor not in layout.tensors]
    names = [n for n in (*TOKENIZER, "generation_config.json") if (base / n).exists()]
    return Plan(
        key="0" * 16,
        adapter=Pinned(kind="folder", location=str(adapter), commit="sha256:a"),
        base=Pinned(kind="folder", location=str(base), commit="sha256:b"),
        base_found_by="test",
        peft_type="LORA",
        task_type=config.get("task_type"),
        model_class=json.loads((base / "config.json").read_text())["architectures"][0],
        adapter_config=config,
        adapter_file="adapter_model.safetensors",
        renamed={},
        way="layers",
        patches=(),
        bindings=tuple(bindings),
        added=tuple(AddedTensor(name=b.tensor, shape=b.shape, dtype=b.dtype, reason="untied") for b in added),
        config_edits=edits,
        sidecars=tuple(Sidecar(name=n, origin="base") for n in names),
        shards=tuple(s.file for s in layout.shards),
        dtype="auto",
        destination=None,
        estimate=Estimate(download_bytes=0, output_bytes=0, disk_bytes=0, memory_bytes=0),
    )


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Rewrites a folder's tensors as `change` says; new ones go to the last shard, the index stays right."""
    paths = sorted(folder.glob("*.safetensors"))
    before = {path: load_file(path) for path in paths}
    after = change({name: tensor for tensors in before.values() for name, tensor in tensors.items()})
    home = {name: path for path, tensors in before.items() for name in tensors}
    for path in paths:
        mine = {n: t.contiguous().clone() for n, t in after.items() if home.get(n, paths[-1]) == path}
        save_file(mine, path, metadata={"format": "pt"})
    if (folder / INDEX).exists():
        total = sum(t.numel() * t.element_size() for t in after.values())
        weight_map = {n: home.get(n, paths[-1]).name for n in after}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index))


def put(folder: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Changes one tensor."""
    edit(folder, lambda tensors: tensors | {name: change(tensors[name].clone())})


def again(case: Case, *, times: float) -> None:
    """Rewrites every changed tensor as base + times · delta."""
    base: dict[str, Tensor] = {}
    for path in case.base.glob("*.safetensors"):
        base |= load_file(path)
    exact = peft_merge(case.base, case.adapter)

    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for binding in case.plan.bindings:
            start = base[binding.source or binding.tensor].float()
            value = start + times * (exact[binding.parameter].float() - start)
            tensors[binding.tensor] = value.to(tensors[binding.tensor].dtype)
        return tensors

    edit(case.merged, change)


def flip_bit(tensor: Tensor) -> Tensor:
    """The tensor with the last bit of its first element turned."""
    kind = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    tensor.view(kind).view(-1)[0] ^= 1
    return tensor
