"""Where a tensor stands in its model, told from its name alone: which stack of layers, which layer, which module."""

from __future__ import annotations

from dataclasses import dataclass

ANY = "*"


@dataclass(frozen=True, order=True)
class Address:
    """`decoder.block`, 3 and `layer.*.DenseReluDense.wi`; outside of layers `layer` is None and `stack` empty.

    The first number of a name is the layer; in `module` all others, of experts mostly, are one: `*`.
    """

    stack: str
    layer: int | None
    module: str

    @property
    def label(self) -> str:
        """The layer with its stack, or the module outside of layers."""
        return self.module if self.layer is None else f"{self.stack}.{self.layer}".lstrip(".")


def address(tensor: str) -> Address:
    """Where the tensor of this name stands."""
    parts = tensor.removesuffix(".weight").split(".")
    first = next((index for index, part in enumerate(parts) if _is_number(part)), None)
    if first is None:
        return Address("", None, ".".join(parts))
    rest = [ANY if _is_number(part) else part for part in parts[first + 1 :]]
    return Address(".".join(parts[:first]), int(parts[first]), ".".join(rest))


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 10
