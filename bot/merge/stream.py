"""The streaming merge: the base's shards in order, each tensor either copied or merged, by several workers.

The output keeps the base's shards, tensor order and dtypes, so that the Hub stores only what changed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch

from bot.errors import InternalError, RefusedError
from bot.merge.adapter import without_effect
from bot.merge.piece import Merger, Piece
from bot.merge.shards import merged_header, merged_index
from bot.progress import Progress
from bot.records import MergedModel, Plan
from bot.weights.header import Header, TensorSpec
from bot.weights.layout import INDEX, Layout, Shard
from bot.weights.reader import TORCH_DTYPES, TensorReader
from bot.weights.writer import ShardWriter

Job = Callable[[], None]


class Stream:
    """One pass over the base. Counts what it does, so that nothing is merged twice or left out."""

    def __init__(
        self, plan: Plan, *, reader: TensorReader, merger: Merger, out: Path, progress: Progress
    ) -> None:
        self.plan, self.reader, self.merger = plan, reader, merger
        self.base: Layout = reader.layout
        self.out, self.progress = out, progress
        self.bindings = {b.tensor: b for b in plan.bindings}
        self.pending = set(self.bindings)
        self.headers: dict[str, Header] = {}
        self.copied = 0
        self.changed = False
        self._lock = threading.Lock()

    def run(self, *, workers: int | None = None) -> MergedModel:
        """Writes every shard and the index. The bytes do not depend on the number of workers.

        Raises RefusedError for results that overflow or equal the base, OSError as it comes from the disk.
        """
        started = time.monotonic()
        self.progress.begin("Merging", total=self.plan.estimate.output_bytes)
        with _workers(workers or len(os.sched_getaffinity(0))) as pool:
            for shard in self.base.shards:
                self._write_shard(shard, pool=pool)
        self.progress.end()
        self._finish()
        return MergedModel(
            folder=str(self.out),
            merged=len(self.bindings),
            copied=self.copied,
            added=len(self.plan.added),
            total_bytes=sum(t.size for header in self.headers.values() for t in header.tensors),
            seconds=round(time.monotonic() - started, 3),
            device="",
        )

    def _write_shard(self, shard: Shard, *, pool: ThreadPoolExecutor) -> None:
        """Writes the shard of the same name, with added tensors behind the last one's."""
        header = self.headers[shard.file] = merged_header(self.plan, base=self.base, shard=shard)
        with ExitStack() as stack:
            source = os.open(self.reader.folder / shard.file, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, source)
            writer = stack.enter_context(ShardWriter(self.out / shard.file, header=header))
            futures: list[Future[None]] = []
            try:
                futures += [pool.submit(job) for job in self._copies(writer, shard=shard, source=source)]
                for job in self._merges(writer):
                    if self.merger.parallel:
                        futures.append(pool.submit(job))
                    else:
                        job()
                for future in futures:
                    future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                _settle(futures)  # nobody writes any more when the files are closed
                raise

    def _copies(self, writer: ShardWriter, *, shard: Shard, source: int) -> Iterator[Job]:
        """Jobs for the tensors that the adapter leaves alone; neighbours go together."""
        span: list[TensorSpec] = []
        for spec in writer.header.tensors:
            if spec.name in self.bindings:
                continue
            self.copied += 1
            original = self.base.tensors[spec.name]
            if original.dtype != spec.dtype:
                yield partial(self._cast, writer, spec)
                continue
            if span and not _adjoins(span[-1], spec, base=self.base):
                yield self._copy(writer, span, shard=shard, source=source)
                span = []
            span.append(spec)
        if span:
            yield self._copy(writer, span, shard=shard, source=source)

    def _copy(self, writer: ShardWriter, span: list[TensorSpec], *, shard: Shard, source: int) -> Job:
        size = span[-1].end - span[0].start
        offset = shard.header.data_start + self.base.tensors[span[0].name].start

        def copy() -> None:
            writer.copy(span[0], source, offset=offset, size=size)
            self._advance(size)

        return copy

    def _cast(self, writer: ShardWriter, spec: TensorSpec) -> None:
        writer.write(spec, _rounded(self.reader.read(spec.name), dtype=spec.dtype, name=spec.name))
        self._advance(spec.size)

    def _merges(self, writer: ShardWriter) -> Iterator[Job]:
        """Jobs for the tensors that the adapter changes."""
        for spec in writer.header.tensors:
            if spec.name in self.bindings:
                self.pending.remove(spec.name)
                copied = self.bindings[spec.name].method == "copy"
                for piece in self.merger.pieces(self.bindings[spec.name]):
                    yield partial(self._merge, writer, spec, piece, copied=copied)

    def _merge(self, writer: ShardWriter, spec: TensorSpec, piece: Piece, *, copied: bool) -> None:
        first, merged, before = piece()
        result = _rounded(merged, dtype=spec.dtype, name=spec.name)
        if not self.changed and not copied:
            self.changed = before is None or not torch.equal(result, before.to(result.device, result.dtype))
        size = result.element_size()
        writer.write(spec, result, at=first * size)
        self._advance(result.numel() * size)

    def _advance(self, count: int) -> None:
        with self._lock:
            self.progress.advance(count)

    def _finish(self) -> None:
        if self.pending:
            raise InternalError(
                f"{min(self.pending)} was planned and not merged.", advice="Report it.", code="not-merged"
            )
        if not self.changed:
            raise without_effect("every merged tensor, rounded to its dtype, equals the base's")
        index = merged_index(self.base, headers=self.headers)
        if index is not None:
            (self.out / INDEX).write_text(index, encoding="utf-8")


def _adjoins(first: TensorSpec, second: TensorSpec, *, base: Layout) -> bool:
    """Whether two tensors lie behind each other in the output and in the base."""
    before, after = base.tensors[first.name], base.tensors[second.name]
    return first.end == second.start and before.end == after.start


def _settle(futures: list[Future[None]]) -> None:
    for future in futures:
        if not future.cancelled():
            future.exception()


@contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads compute on one core each: torch's own threads would fight with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _rounded(tensor: torch.Tensor, *, dtype: str, name: str) -> torch.Tensor:
    """The tensor in its dtype on disk, rounded once. Raises RefusedError when a value does not survive."""
    kind = TORCH_DTYPES[dtype]
    extremes = torch.stack(torch.aminmax(tensor)) if tensor.numel() else tensor.flatten()
    # Rounding is monotonic, so the extremes tell for all (NaN is an extreme, too) in a fifth of isfinite's time.
    if kind.is_floating_point and not torch.isfinite(extremes.to(kind)).all():
        fits = bool(torch.isfinite(extremes).all())
        reason = f"exceeds the range of {dtype}" if fits else "is not finite"
        raise RefusedError(
            f"The merged {name} {reason}.",
            advice="Merge with --dtype bfloat16 or float32." if fits else "Check base and adapter for NaN.",
            code="overflow" if fits else "result-not-finite",
        )
    return tensor.to(kind)
