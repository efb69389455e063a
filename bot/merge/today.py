"""A merged model under the names that transformers has today, where it cannot write back those that the base has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bot.errors import RefusedError
from bot.merge.conversion import Group
from bot.merge.model import Names
from bot.merge.operations import Operations
from bot.records import Binding
from bot.weights.header import FLOATS
from bot.weights.layout import Layout

REASON = "the name that transformers has for it today"
CONVERTED = "converted"  # the method of a parameter that is stored in today's form and otherwise as it was


@dataclass(frozen=True)
class Today:
    """What is written under another name than the base's.

    `places`: the new names, and the tensor of the base in whose place each comes. `dropped`: the old names.
    """

    bindings: tuple[Binding, ...]
    places: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def rename(bindings: Iterable[Binding], *, names: Names, operations: Operations, layout: Layout) -> Today:
    """All floating-point tensors that are parameters, under their parameters' names; converted ones in that form.

    Raises RefusedError when a new name is taken.
    """
    groups = list(dict.fromkeys(names.converted.values()))
    of_groups = {tensor for group in groups for tensor in group.tensors}
    found = {b.tensor: b for b in bindings if b.tensor not in of_groups}
    places: dict[str, str] = {}
    for parameter, tensor in names.disk.items():
        if parameter == tensor or layout.tensors[tensor].dtype not in FLOATS:
            continue
        places[parameter] = tensor
        bound = found.pop(tensor, None)
        found[parameter] = (
            replace(bound, tensor=parameter) if bound else _moved(parameter, tensor=tensor, layout=layout)
        )
    for group in groups:
        for parameter in group.parameters:
            places[parameter] = group.tensors[0]
            found[parameter] = _in_group(parameter, group, names=names, operations=operations, layout=layout)
    if taken := sorted(places.keys() & (layout.tensors.keys() - of_groups)):
        raise RefusedError(
            f"The base stores {taken[0]} and, under another name, what transformers would store there.",
            advice="Save the base once with a current transformers (save_pretrained) and name it with --base.",
            code="converted-weights",
        )
    old = set(places.values()) | of_groups
    dropped = tuple(name for name in layout.tensors if name in old)
    note = (
        f"{len(dropped)} tensors of the base are stored under the names that transformers has for them today:"
        f" {dropped[0]} becomes {next(n for n, place in places.items() if place == dropped[0])}"
    )
    return Today(tuple(found.values()), places, dropped, (note,))


def _moved(parameter: str, *, tensor: str, layout: Layout) -> Binding:
    spec = layout.tensors[tensor]
    return Binding(
        tensor=parameter,
        source=tensor,
        parameter=parameter,
        method="copy",
        adapter=(),
        shape=spec.shape,
        dtype=spec.dtype,
    )


def _in_group(
    parameter: str, group: Group, *, names: Names, operations: Operations, layout: Layout
) -> Binding:
    change = operations.of.get(parameter)
    dtypes = {layout.tensors[tensor].dtype for tensor in group.tensors}
    return Binding(
        tensor=parameter,
        source=None,
        parameter=parameter,
        method=f"{change.method}_{CONVERTED}" if change else CONVERTED,
        adapter=change.adapter if change else (),
        shape=names.shapes[parameter],
        dtype=dtypes.pop() if len(dtypes) == 1 else "F32",
    )
