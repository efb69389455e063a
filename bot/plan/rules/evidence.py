"""What the header of an adapter's weights says about its config: modules, ranks, magnitudes. No tensor data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from bot.errors import InputError
from bot.plan.adapter_config import WEIGHTS
from bot.plan.adapter_keys import PREFIX, canonical
from bot.weights.files import Files
from bot.weights.header import Header
from bot.weights.layout import read_header

FACTOR = re.compile(r"(?P<module>.+)\.(?P<role>lora_A|lora_B|lora_embedding_A|lora_embedding_B)(\.weight)?")
MAGNITUDE = re.compile(r"(?P<module>.+)\.lora_magnitude_vector")
BIAS = re.compile(r"(?P<module>.+)\.lora_B\.bias")
ADALORA = re.compile(r"\.(lora_E|ranknum)(\.|$)")


@dataclass(frozen=True)
class Evidence:
    """Names (as PEFT would have saved them) and shapes of an adapter's tensors."""

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, shapes: Iterable[tuple[str, tuple[int, ...]]]) -> Evidence:
        """From names as they stand in the file."""
        return cls({canonical(name).removeprefix(PREFIX): shape for name, shape in shapes})

    @cached_property
    def ranks(self) -> dict[str, int]:
        """The rank of every LoRA module whose two factors agree on it. Experts are not told from ranks here."""
        return {module: min(ranks) for module, ranks in self._ranks.items() if len(ranks) == 1}

    @cached_property
    def disagreeing(self) -> tuple[str, ...]:
        """The linear modules whose two factors do not fit each other."""
        linear = {name for name, shape in self.shapes.items() if len(shape) == 2}
        pairs = {
            m: (f"{m}.lora_A.weight", f"{m}.lora_B.weight") for m, r in self._ranks.items() if len(r) > 1
        }
        return tuple(module for module, pair in pairs.items() if linear.issuperset(pair))

    @cached_property
    def _ranks(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for name, shape in self.shapes.items():
            match = FACTOR.fullmatch(name)
            if match and len(shape) >= 2:
                found.setdefault(match["module"], set()).add(
                    shape[0] if match["role"].endswith("A") else shape[1]
                )
        return found

    @cached_property
    def modules(self) -> frozenset[str]:
        """The modules with LoRA factors."""
        return frozenset(m["module"] for name in self.shapes if (m := FACTOR.fullmatch(name)))

    @cached_property
    def magnitudes(self) -> frozenset[str]:
        """The modules with a magnitude vector, which DoRA has and LoRA has not."""
        return frozenset(m["module"] for name in self.shapes if (m := MAGNITUDE.fullmatch(name)))

    @cached_property
    def biases(self) -> frozenset[str]:
        """The modules whose lora_B has a bias."""
        return frozenset(m["module"] for name in self.shapes if (m := BIAS.fullmatch(name)))

    @property
    def is_lora(self) -> bool:
        """Whether the factors are LoRA's and none of a method that has more beside them."""
        return bool(self.ranks) and not any(ADALORA.search(name) for name in self.shapes)

    @property
    def is_experts(self) -> bool:
        """Whether factors lie on parameters (`target_parameters`), where rows are experts times rank."""
        return any(module == "base_layer" or module.endswith(".base_layer") for module in self.modules)


def read(files: Files) -> Evidence | None:
    """The evidence in an adapter's header; None when there is none, or it cannot be read: others will say so."""
    header = header_of(files)
    return None if header is None else of(header)


def header_of(files: Files) -> Header | None:
    """The header of an adapter's weights; None when there is none, or it cannot be read."""
    size = files.sizes().get(WEIGHTS)
    try:
        return None if size is None else read_header(files, WEIGHTS, size=size)
    except InputError:
        return None


def of(header: Header) -> Evidence:
    """The evidence in a header."""
    return Evidence.of((tensor.name, tensor.shape) for tensor in header.tensors)
