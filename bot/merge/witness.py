"""Who looks on while a merge is written: the protocol. The proof in `bot.validate` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bot.records import Binding
from bot.weights.header import Header, TensorSpec


class Witness(Protocol):
    """Sees each part of the output once it lies in the file. Called by several threads at once."""

    def begin(self, file: str, header: Header) -> None:
        """The shard `file` of the output was opened; this is its header."""

    def merged(self, binding: Binding, *, first: int, last: int) -> None:
        """Rows `first` to `last` (exclusive) of the binding's tensor have been written."""

    def copied(self, tensors: Sequence[TensorSpec]) -> None:
        """These tensors of the output, none of them bound, have been written."""
