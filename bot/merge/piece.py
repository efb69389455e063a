"""What a merger gives the stream: pieces of merged tensors, made when the stream asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from bot.records import Binding

# Makes a piece: where it starts in its tensor (in elements), its merged elements, not yet rounded, and the base's
# elements there (None when the adapter brings them whole).
Piece = Callable[[], tuple[int, torch.Tensor, torch.Tensor | None]]


class Merger(Protocol):
    """Merges one binding at a time. `parallel`: its pieces may be made by several threads at once."""

    parallel: bool

    def pieces(self, binding: Binding) -> Iterator[Piece]:
        """All pieces of the binding's tensor."""
