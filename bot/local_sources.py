"""Sources for a merge on this machine: what was fetched, and for a quantised base its dequantised weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bot.prepare import Prepared, Sources, fetch
from bot.progress import Progress
from bot.publish import folder as folders
from bot.weights.files import Hub


@contextmanager
def local_sources(
    prepared: Prepared, *, hub: Hub, room: Callable[[], Path], progress: Progress
) -> Iterator[Sources]:
    """Folders that hold the base and adapter of the plan.

    A quantised base that is to be dequantised is written beside what `room` names, for as long as the sources are in
    use; the merge and its checks meet a plain base. Raises what fetching raises, MergeError when the disk declines.
    """
    sources = fetch(prepared, hub=hub, progress=progress)
    quantised = prepared.quantised
    if quantised is None:
        yield sources
        return
    from bot.weights.quantised.write import write_dequantised  # noqa: PLC0415 - torch

    result = room()
    place = result.with_name(f"{result.name}.dequantised")
    beside = [s.name for s in prepared.plan.sidecars if s.origin == "base"]
    needed = quantised.logical.total_bytes
    with folders.staging(place, key=prepared.plan.key, needed=needed) as staged:
        write_dequantised(
            staged.folder, quantised=quantised, source=sources.base, beside=beside, progress=progress
        )
        yield replace(sources, base=staged.folder)
