"""Brings here what a plan has decided on: files of the Hub, and what they have to become before a merge can read them.

Pickle weights become safetensors, quantised ones are dequantised; both are written down for as long as they are in use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot.errors import InputError
from bot.inputs import inputs
from bot.isolation import room
from bot.opening import local
from bot.plan import adapter_config
from bot.plan.base_model import CONFIG
from bot.prepare import Prepared
from bot.progress import Progress
from bot.provenance import InputFile
from bot.publish.folder import staging
from bot.weights import archive
from bot.weights.files import Hub
from bot.weights.layout import INDEX, Layout, Shard

OBJECTS = frozenset({"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
ENDS = 1024  # bytes at either end of a file that are looked at: a tokenizer's has tens of megabytes


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Local folders that hold every file of adapter and base that the plan needs.

    `inputs` are those files where they come from, with their digests.
    """

    adapter: Path
    base: Path
    inputs: tuple[InputFile, ...] = ()


@contextmanager
def fetched(
    prepared: Prepared, *, hub: Hub, scratch: Callable[[], Path], progress: Progress, shards: bool = True
) -> Iterator[Sources]:
    """Brings the plan's files here: the adapter's, then the base's. Local folders stay where they are.

    Without `shards`, the base's weights stay where they are: who merges shard by shard fetches them as they are needed.
    What has to be written anew goes into folders beside `scratch()`, gone in the end.

    Raises what fetching raises, InputError for small files that are not whole, RefusedError for weights that cannot be
    read, MergeError when the disk declines.
    """
    plan, opened, found = prepared.plan, prepared.opened, prepared.found
    chosen = {o: [s.name for s in plan.sidecars if s.origin == o] for o in ("adapter", "base")}
    beside = [adapter_config.FILE, *chosen["adapter"]]
    files = [*beside, opened.pickle or plan.adapter_file]
    adapter = local(opened.adapter, names=files, hub=hub, progress=progress)
    _check_whole(adapter, chosen["adapter"], name=opened.adapter.files.name)
    index = [INDEX] if found.stored.index is not None and not found.pickles else []
    rest = [CONFIG, *index, *chosen["base"]]
    files = [*rest, *(found.pickles.get(s.file, s.file) for s in found.stored.shards if shards)]
    base = local(found.base.model, names=files, hub=hub, progress=progress)
    _check_whole(base, chosen["base"], name=found.base.model.files.name)
    with ExitStack() as stack:

        def space(name: str, size: int) -> Path:
            place = scratch()
            place = place.with_name(f"{place.name}-{name}")
            return stack.enter_context(staging(place, key=plan.key, needed=size)).folder

        if opened.pickle:
            layout = Layout((Shard(file=plan.adapter_file, header=opened.header),))
            out = space("adapter", layout.total_bytes)
            _unpickle(opened.pickles, adapter, layout=layout, rest=beside, out=out, progress=progress)
            adapter = out
        if opened.initial is not None:
            start = local(opened.initial.model, names=[adapter_config.WEIGHTS], hub=hub, progress=progress)
            out = space("stacked", 2 * opened.weights_bytes)
            room.call(
                "bot.merge.stacked:stack",
                out,
                adapter=adapter.absolute(),
                initial=(start / adapter_config.WEIGHTS).absolute(),
                file=plan.adapter_file,
                renamed=plan.renamed,
                theirs=plan.initial_renamed,
            )
            adapter = out
        if found.pickles:
            out = space("base", found.layout.total_bytes)
            _unpickle(found.pickles, base, layout=found.layout, rest=rest, out=out, progress=progress)
            base = out
        if found.quantised is not None:
            out = space("base", found.layout.total_bytes)
            room.call(
                "bot.weights.quantised.write:write_dequantised",
                out,
                quantised=found.quantised,
                source=base.absolute(),
                beside=chosen["base"],
                progress=progress,
            )
            base = out
        yield Sources(adapter=adapter, base=base, inputs=inputs(prepared, hub=hub))


def _check_whole(folder: Path, sidecars: list[str], *, name: str) -> None:
    """Raises InputError for a JSON file that is cut off, or is a Git LFS pointer or a page in its place."""
    for each in OBJECTS.intersection(sidecars):
        with (folder / each).open("rb") as file:
            first = file.read(ENDS).lstrip(b"\xef\xbb\xbf \t\r\n")
            file.seek(max(0, file.seek(0, os.SEEK_END) - ENDS))
            last = file.read().rstrip()
        if not (first.startswith(b"{") and last.endswith(b"}")):
            raise InputError(
                f"{each} of {name} is no JSON object: cut off, or a Git LFS pointer.",
                advice="Download or save it again.",
                code="sidecar-broken",
            )


def _unpickle(
    pickles: dict[str, str], folder: Path, *, layout: Layout, rest: list[str], out: Path, progress: Progress
) -> None:
    """Writes each pickle file as the safetensors file that the plan has read its header of."""
    progress.begin("Reading pickle", total=layout.total_bytes)
    for shard in layout.shards:
        source, made = (folder / pickles[shard.file]).absolute(), out / shard.file
        room.call("bot.weights.pickled:convert", source, out=made, header=shard.header, progress=progress)
    progress.end()
    archive.write_index(layout, out=out)
    archive.link_rest(rest, source=folder, out=out)
