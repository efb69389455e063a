"""The streaming merge: the base's shards in order, each tensor either copied or merged, by several workers.

The output keeps the base's shards, tensor order and dtypes, so that the Hub stores only what changed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from bot.errors import InternalError
from bot.merge.adapter import without_effect
from bot.merge.crew import Crew
from bot.merge.piece import TASK, Merger, Piece, overflow, spans
from bot.merge.shards import merged_header, merged_index
from bot.merge.witness import Witness
from bot.progress import Progress
from bot.records import Binding, MergedModel, Plan
from bot.weights import memory
from bot.weights.floats import narrow, widen
from bot.weights.header import Header, TensorSpec
from bot.weights.layout import INDEX, Layout, Shard
from bot.weights.rows import RowReader
from bot.weights.writer import ShardWriter

Job = Callable[[], None]
KEPT = (
    1 / 8
)  # of the memory that is free: a result that is larger does not stay there until somebody reads it


class Stream:
    """One pass over the base. Counts what it does, so that nothing is merged twice or left out."""

    def __init__(
        self,
        plan: Plan,
        *,
        reader: RowReader,
        merger: Merger,
        out: Path,
        progress: Progress,
        witness: Witness | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.plan, self.reader, self.merger = plan, reader, merger
        self.base: Layout = reader.layout
        self.out, self.progress, self.witness, self.crew = out, progress, witness, crew
        self.bindings = {b.tensor: b for b in plan.bindings}
        self.pending = set(self.bindings)
        self.headers: dict[str, Header] = {}
        self.digests: dict[str, str] = {}
        self.copied = 0
        self._let_go = plan.estimate.output_bytes > memory.available() * KEPT
        self._lock = threading.Lock()

    def run(
        self, *, workers: int | None = None, digest: bool = False, only: str | None = None
    ) -> MergedModel:
        """Writes every shard and the index. The bytes do not depend on the number of workers.

        `digest`: the shards' SHA-256 are taken on the way. `only`: the one shard that is written, and no index; the
        plan's bindings are those of its tensors, and who merges the others says whether anything has changed. Raises
        RefusedError for results that overflow or equal the base, OSError as it comes from the disk.
        """
        started = time.monotonic()
        shards = [shard for shard in self.base.shards if only in (None, shard.file)]
        total = shards[0].header.file_size if only else self.plan.estimate.output_bytes
        self.progress.begin(f"Merging {only}" if only else "Merging", total=total)
        # Each worker computes on one core: threads of the linear algebra would fight with them.
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool,
        ):
            for shard in shards:
                self._write_shard(shard, pool=pool, digest=digest)
        self.progress.end()
        self._finish(whole=only is None)
        return MergedModel(
            folder=str(self.out),
            merged=len(self.bindings),
            copied=self.copied,
            added=len(self.plan.added),
            total_bytes=sum(t.size for header in self.headers.values() for t in header.tensors),
            seconds=round(time.monotonic() - started, 3),
            device="",
            digests=self.digests,
            changed=self._changed,
        )

    @property
    def _changed(self) -> bool:
        return (self.crew or self.merger).changed

    def _write_shard(self, shard: Shard, *, pool: ThreadPoolExecutor, digest: bool) -> None:
        """Writes the shard of the same name, with added tensors behind the last one's."""
        header = self.headers[shard.file] = merged_header(self.plan, base=self.base, shard=shard)
        with ExitStack() as stack:
            source = os.open(self.reader.folder / shard.file, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, source)
            path = self.out / shard.file
            writer = stack.enter_context(ShardWriter(path, header=header, digest=digest, let_go=self._let_go))
            if self.witness:
                self.witness.begin(shard.file, header)
            futures: list[Future[None]] = []
            try:
                futures += [pool.submit(job) for job in self._copies(writer, shard=shard, source=source)]
                for piece, job in self._merges(writer):
                    if piece.alone:
                        job()
                    else:
                        futures.append(pool.submit(job))
                for future in futures:
                    future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                _settle(futures)  # nobody writes any more when the files are closed
                raise
        if writer.digest:
            self.digests[shard.file] = writer.digest

    def _copies(self, writer: ShardWriter, *, shard: Shard, source: int) -> Iterator[Job]:
        """Jobs for the tensors that the adapter leaves alone; neighbours go together."""
        span: list[TensorSpec] = []
        for spec in writer.header.tensors:
            if spec.name in self.bindings:
                continue
            self.copied += 1
            original = self.base.tensors[spec.name]
            if original.dtype != spec.dtype:
                yield partial(self._cast, writer, spec, stored=original)
                continue
            if span and not _adjoins(span[-1], spec, base=self.base):
                yield partial(self._copy, writer, span, shard=shard, source=source)
                span = []
            span.append(spec)
        if span:
            yield partial(self._copy, writer, span, shard=shard, source=source)

    def _copy(self, writer: ShardWriter, span: list[TensorSpec], *, shard: Shard, source: int) -> None:
        size = span[-1].end - span[0].start
        offset = shard.header.data_start + self.base.tensors[span[0].name].start
        writer.copy(span[0], source, offset=offset, size=size)
        self._copied(span)

    def _cast(self, writer: ShardWriter, spec: TensorSpec, *, stored: TensorSpec) -> None:
        """Rounds a tensor to the dtype that was asked for. What was infinite before may stay so."""
        rows, columns = self.reader.shape(spec.name)
        for first, last in spans(0, rows, columns=columns, numbers=TASK):
            before = widen(self.reader.rows(spec.name, first, last), stored.dtype)
            data = narrow(before, spec.dtype)
            if (np.isfinite(before) & ~np.isfinite(widen(data, spec.dtype))).any():
                raise overflow(spec.name, dtype=spec.dtype)
            writer.write(spec, data, at=first * columns * data.itemsize)
        self._copied([spec])

    def _copied(self, tensors: list[TensorSpec]) -> None:
        if self.witness:
            self.witness.copied(tensors)
        self._advance(sum(t.size for t in tensors))

    def _merges(self, writer: ShardWriter) -> Iterator[tuple[Piece, Job]]:
        """Jobs for the tensors that the adapter changes."""
        for spec in writer.header.tensors:
            binding = self.bindings.get(spec.name)
            if binding is not None:
                self.pending.remove(spec.name)
                for number, piece in enumerate(self.merger.pieces(binding, dtype=spec.dtype)):
                    if self.crew:
                        yield piece, partial(self._have_merged, writer, spec, binding, number, crew=self.crew)
                    else:
                        yield piece, partial(self._merge, writer, spec, binding, piece)

    def _merge(self, writer: ShardWriter, spec: TensorSpec, binding: Binding, piece: Piece) -> None:
        bounds: list[int] = []
        for part in piece.parts():
            row = part.data.nbytes // max(1, part.last - part.first)
            writer.write(spec, part.data, at=part.first * row)
            bounds += (part.first, part.last)
            self._advance(part.data.nbytes)
        if self.witness and bounds:
            self.witness.merged(binding, first=bounds[0], last=bounds[-1])

    def _have_merged(
        self, writer: ShardWriter, spec: TensorSpec, binding: Binding, number: int, *, crew: Crew
    ) -> None:
        """Another process computes and writes."""
        position = writer.header.data_start + spec.start
        first, last, size = crew.merge(
            spec.name, number, path=writer.path, position=position, dtype=spec.dtype
        )
        writer.written(spec, at=first * (spec.size // max(1, binding.shape[0])), size=size)
        self._advance(size)
        if self.witness and last > first:
            self.witness.merged(binding, first=first, last=last)

    def _advance(self, count: int) -> None:
        with self._lock:
            self.progress.advance(count)

    def _finish(self, *, whole: bool) -> None:
        if self.pending:
            raise InternalError(
                f"{min(self.pending)} was planned and not merged.", advice="Report it.", code="not-merged"
            )
        if not whole:
            return
        if not self._changed:
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
