"""Whether the base holds what its config promises: every parameter, in its shape, unless the adapter brings it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from bot.errors import RefusedError
from bot.merge.model import Names
from bot.merge.operations import Operations, stored_copies
from bot.weights.header import TensorSpec
from bot.weights.layout import Layout

IN_STACK = re.compile(r"(.*?\.)\d+\.")  # the stack, and the layer in it
# Tasks whose result does not pass through a head of their own.
OPEN_ENDED = frozenset({"FEATURE_EXTRACTION", "None"})


def brought(operations: Operations, *, names: Names, tensors: Mapping[str, TensorSpec]) -> set[str]:
    """Parameters that the adapter brings whole, so that the base's may be of another shape."""
    if any(operation.method == "copy" for operation in operations.of.values()):
        return set(operations.replaced)
    grown = {p for p, shape in stored_copies(tensors).items() if names.shapes.get(p) == shape}
    return operations.replaced | grown


def check_shapes(names: Names, *, layout: Layout, brought: set[str], name: str) -> None:
    """Raises RefusedError for a tensor of another shape than the config's, unless the adapter has `brought` it."""
    for parameter, tensor in names.disk.items():
        spec, shape = layout.tensors[tensor], names.shapes[parameter]
        if spec.shape != shape and parameter not in brought:
            raise RefusedError(
                f"{name} stores {spec.name} as {list(spec.shape)} where its config.json calls for {list(shape)}.",
                advice="The base is broken or quantised: name the full-precision model with --base.",
                code="base-does-not-fit",
            )


def check_missing(
    model: PreTrainedModel, *, names: Names, operations: Operations, adapter_config: dict[str, Any]
) -> list[str]:
    """What there is to say of parameters that neither base nor adapter holds.

    Raises RefusedError where the adapter was trained on them, where they are a whole layer among others, or where the
    base was not saved as this class.
    """
    missing = sorted(names.missing - operations.replaced)
    if not missing:
        return []
    own = type(model).__name__ in (model.config.architectures or [])
    optional = own or str(adapter_config.get("task_type")) in OPEN_ENDED
    needed = [m for m in missing if m in operations.of] or _lost_layer(missing, names=names)
    if needed or not optional:
        raise RefusedError(
            f"Neither the base nor the adapter holds {(needed or missing)[0]}, which {type(model).__name__} needs:"
            " it would be random at every load.",
            advice="Save the adapter with this module in modules_to_save, or name the right base with --base.",
            code="weights-missing",
        )
    return [f"the base itself lacks {len(missing)} tensors of {type(model).__name__} ({missing[0]}, …)"]


def _lost_layer(missing: list[str], *, names: Names) -> list[str]:
    """Parameters of a layer that has none at all, where others of its stack have some: no model is stored so."""
    stored = names.disk.keys() | names.converted.keys() | names.tied.keys() | set(names.tied.values())
    there = [match for name in stored - set(missing) if (match := IN_STACK.match(name))]
    stacks, layers = {match[1] for match in there}, {match[0] for match in there}
    lost = [match for name in missing if (match := IN_STACK.match(name))]
    return [match.string for match in lost if match[1] in stacks and match[0] not in layers]
