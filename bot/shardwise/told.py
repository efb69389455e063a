"""The progress of one stage among several that work at a time: what a worker says of merging, and nothing else."""

from __future__ import annotations

from bot.progress import Progress


class MergingOnly:
    """A `Progress` that counts merged bytes into a piece of work that has begun elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._merging = progress, False

    def begin(self, what: str, *, total: int) -> None:  # noqa: ARG002 - of the whole work it is another
        self._merging = what.startswith("Merging")

    def advance(self, count: int) -> None:
        if self._merging:
            self._progress.advance(count)

    def end(self) -> None:
        self._merging = False

    def say(self, line: str) -> None:
        """Of each shard it would be the same."""
