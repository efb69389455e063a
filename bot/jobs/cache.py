"""What merges on this machine have fetched, kept for the next ones as far as there is room for it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bot.clients import hub_cache
from bot.errors import MergeError

ALL = "*"  # in the place of a model: nobody knows which one it will be


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A cache of the Hub's client in `folder`, of which at most `most` bytes are kept; None: as the disk has room.

    Whoever calls sees to it that nobody else does at the same time. Models are `owner/name@commit`; those in `keep`
    are in use, and stay.
    """

    folder: Path
    most: int | None = None

    def prepare(self) -> None:
        """Makes the folder. Raises MergeError where that cannot be, or where it cannot be written to."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fault = (
                "" if os.access(self.folder, os.R_OK | os.W_OK | os.X_OK) else "this user may not write there"
            )
        except OSError as error:
            fault = error.strerror or "it cannot be made"
        if fault:
            raise MergeError(
                f"The folder {self.folder}, for what is fetched, cannot be used: {fault}.",
                advice="Name a folder that this user may write to as `cache` of [worker].",
                code="cache-unusable",
            )

    def tidy(self, *, keep: frozenset[str]) -> None:
        """Deletes what is more than allowed."""
        if ALL not in keep:
            hub_cache.shrink(self.folder, most=self.most, keep=keep)

    def give(self, size: int, *, keep: frozenset[str]) -> None:
        """Deletes at least so many bytes, if so much may go."""
        if ALL not in keep:
            hub_cache.shrink(self.folder, lacks=size, keep=keep)

    def room(self, size: int, *, keep: frozenset[str]) -> int:
        """Bytes that are free on its disk, once it has made room for so many as far as may be."""
        if (lacks := size - self._free()) > 0:
            self.give(lacks, keep=keep)
        return self._free()

    def use(self, models: frozenset[str]) -> int:
        """Bytes that are there of these, which somebody uses now."""
        hub_cache.mark(self.folder, models)
        return hub_cache.holds(self.folder, models)

    def shares_disk(self, folder: Path) -> bool:
        """Whether what is deleted here is free there."""
        return self._nearest().stat().st_dev == folder.stat().st_dev

    def _free(self) -> int:
        return shutil.disk_usage(self._nearest()).free

    def _nearest(self) -> Path:
        """The folder, or that in which it will be made."""
        return next(path for path in (self.folder, *self.folder.parents) if path.exists())
