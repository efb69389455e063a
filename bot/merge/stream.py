"""The streaming merge: the base's shards in order, one tensor at a time, each either copied or merged.

The output keeps the base's shards, tensor order and dtypes, so that the Hub stores only what changed.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from bot.errors import InternalError, RefusedError
from bot.merge.adapter import check_effect, load_adapter, without_effect
from bot.merge.modules import ModuleMerger
from bot.merge.ties import edited_config
from bot.progress import Progress
from bot.records import Binding, MergedModel, Plan
from bot.weights.device import choose
from bot.weights.header import Header, TensorSpec, encode
from bot.weights.layout import INDEX, Layout, Shard
from bot.weights.reader import FLOATS, TORCH_DTYPES, TensorReader
from bot.weights.writer import ShardWriter

DTYPE_OF_OPTION = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def merge(
    plan: Plan,
    *,
    base_folder: Path,
    base: Layout,
    config: dict[str, Any],
    adapter_path: Path,
    out: Path,
    device: str,
    progress: Progress,
) -> MergedModel:
    """Writes the merged weights and their index into the existing folder `out`.

    `config` is the base's config.json. Raises RefusedError for an adapter that is not finite, without effect or
    contradictory, and for results that overflow; OSError as it comes from the disk.
    """
    started = time.monotonic()
    adapter = load_adapter(adapter_path)
    check_effect(adapter, bindings=plan.bindings, scaled=bool(plan.adapter_config.get("lora_alpha", 8)))
    target = torch.device(choose(device))
    edited = edited_config(config, {e.key: e.after for e in plan.config_edits})
    merger = ModuleMerger(plan, config=edited, adapter=adapter, device=target)
    stream = _Stream(plan, base_folder=base_folder, base=base, merger=merger, out=out, progress=progress)
    progress.begin("Merging", total=plan.estimate.output_bytes)
    for shard in base.shards:
        stream.write_shard(shard)
    progress.end()
    stream.finish()
    return MergedModel(
        folder=str(out),
        merged=stream.merged,
        copied=stream.copied,
        added=len(plan.added),
        total_bytes=stream.total,
        seconds=round(time.monotonic() - started, 3),
        device=str(target),
    )


class _Stream:
    """One pass over the base. Counts what it does, so that nothing is merged twice or left out."""

    def __init__(
        self,
        plan: Plan,
        *,
        base_folder: Path,
        base: Layout,
        merger: ModuleMerger,
        out: Path,
        progress: Progress,
    ) -> None:
        self.plan, self.base_folder, self.base, self.merger = plan, base_folder, base, merger
        self.out, self.progress = out, progress
        self.bindings = {b.tensor: b for b in plan.bindings}
        self.pending = set(self.bindings)
        self.merged = self.copied = self.total = 0
        self.changed = False
        self.headers: dict[str, Header] = {}
        self.reader = TensorReader(base_folder, layout=base)

    def write_shard(self, shard: Shard) -> None:
        """Writes the shard of the same name, with added tensors behind the last one's."""
        header = self._header(shard)
        self.headers[shard.file] = header
        with ExitStack() as stack:
            source = stack.enter_context((self.base_folder / shard.file).open("rb"))
            writer = stack.enter_context(ShardWriter(self.out / shard.file, header=header))
            for spec in header.tensors:
                self._write_tensor(writer, spec, shard=shard, source=source)
                self.progress.advance(spec.size)
                self.total += spec.size

    def _write_tensor(self, writer: ShardWriter, spec: TensorSpec, *, shard: Shard, source: Any) -> None:
        binding = self.bindings.get(spec.name)
        if binding is not None:
            self.pending.remove(spec.name)
            writer.write(spec.name, self._merge(binding, dtype=spec.dtype))
            self.merged += 1
            return
        original = self.base.tensors[spec.name]
        if original.dtype == spec.dtype:
            writer.copy(
                spec.name, source, offset=shard.header.data_start + original.start, size=original.size
            )
        else:
            writer.write(spec.name, _rounded(self.reader.read(spec.name), dtype=spec.dtype, name=spec.name))
        self.copied += 1

    def _merge(self, binding: Binding, *, dtype: str) -> torch.Tensor:
        source = self.reader.read(binding.source) if binding.source else None
        result = _rounded(self.merger.merge(binding, source), dtype=dtype, name=binding.tensor)
        if binding.method != "copy" and not self.changed:
            before = self.reader.read(binding.tensor) if binding.tensor in self.base.tensors else source
            self.changed = before is None or not torch.equal(result, before.to(result.dtype))
        return result

    def _header(self, shard: Shard) -> Header:
        asked = DTYPE_OF_OPTION.get(self.plan.dtype)
        entries = [self._entry(t, asked=asked) for t in shard.header.tensors]
        if shard is self.base.shards[-1]:
            entries += [
                (a.name, asked if asked and a.dtype in FLOATS else a.dtype, a.shape) for a in self.plan.added
            ]
        if entries == [(t.name, t.dtype, t.shape) for t in shard.header.tensors]:
            return shard.header
        return encode(entries, metadata=shard.header.metadata)

    def _entry(self, spec: TensorSpec, *, asked: str | None) -> tuple[str, str, tuple[int, ...]]:
        binding = self.bindings.get(spec.name)
        shape = binding.shape if binding else spec.shape
        return spec.name, asked if asked and spec.dtype in FLOATS else spec.dtype, shape

    def finish(self) -> None:
        """Writes the index. Raises when a planned tensor was not merged, or nothing changed."""
        if self.pending:
            raise InternalError(
                f"{min(self.pending)} was planned and not merged.", advice="Report it.", code="not-merged"
            )
        if not self.changed:
            raise without_effect("every merged tensor, rounded to its dtype, equals the base's")
        if self.base.index is not None or len(self.base.shards) > 1:
            self._write_index()

    def _write_index(self) -> None:
        index = json.loads(self.base.index) if self.base.index else {}
        before = {s.file: s.header for s in self.base.shards}
        if self.base.index and self.headers == before:
            (self.out / INDEX).write_text(self.base.index, encoding="utf-8")
            return
        specs = [t for header in self.headers.values() for t in header.tensors]
        metadata = {**(index.get("metadata") or {}), "total_size": sum(t.size for t in specs)}
        if "total_parameters" in metadata:
            metadata["total_parameters"] = sum(math.prod(t.shape) for t in specs)
        weight_map = {t.name: file for file, header in self.headers.items() for t in header.tensors}
        text = json.dumps({**index, "metadata": metadata, "weight_map": weight_map}, indent=2) + "\n"
        (self.out / INDEX).write_text(text, encoding="utf-8")


def _rounded(tensor: torch.Tensor, *, dtype: str, name: str) -> torch.Tensor:
    """The tensor in its dtype on disk, rounded once. Raises RefusedError when a value does not survive."""
    result = tensor.to(TORCH_DTYPES[dtype])
    if result.is_floating_point() and not torch.isfinite(result).all():
        fits = bool(torch.isfinite(tensor).all())
        reason = f"exceeds the range of {dtype}" if fits else "is not finite"
        raise RefusedError(
            f"The merged {name} {reason}.",
            advice="Merge with --dtype bfloat16 or float32." if fits else "Check base and adapter for NaN.",
            code="overflow" if fits else "result-not-finite",
        )
    return result
