"""What one row of the tables of tiny architectures says."""

from dataclasses import dataclass, field
from typing import Any

from tests.tiny.tokenizers import Kind

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build one tiny model; `needs` names the input recipe in `inputs.py`."""

    config: str
    sizes: dict[str, Any]
    auto: str = "AutoModelForCausalLM"
    targets: tuple[str, ...] = LINEAR
    tokenizer: Kind | None = "bpe"
    needs: str = "text"
    parameters: tuple[str, ...] = field(default=())
    """LoRA `target_parameters`: expert weights, which are parameters and no modules."""
