"""Adapters on the tiny bases: saved with clear, seeded effects, loaded unmerged, and edited."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.variants import BdLoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny.architectures import ARCHITECTURES
from tests.tiny.models import load, model_class
from tests.tiny.variants import LORA_VARIANTS, STRENGTHS, SUITS, TUNERS

__all__ = [
    "LORA_VARIANTS",
    "SUITS",
    "TUNERS",
    "edit_config",
    "live",
    "make_config",
    "rewrite_weights",
    "save_adapter",
]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
#: How far a LoRA delta moves its weight, and noise moves a tensor that does not start at zero.
STRENGTH = 0.1


def save_adapter(
    folder: Path,
    base: Path,
    *,
    config: dict[str, Any] | PeftConfig,
    architecture: str | None = None,
    seed: int = 1,
    dtype: torch.dtype | str | None = None,
    base_name: str | None = None,
    num_labels: int | None = None,
) -> Path:
    """Put an adapter on the base, give it seeded values that show in the logits, and save it to `folder`."""
    settings = config if isinstance(config, PeftConfig) else make_config(config, architecture=architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(_base_model(base, settings, num_labels=num_labels), settings)
        perturb(model, seed=seed, strength=_strength(settings))
        model.save_pretrained(str(folder))
    edit_config(folder, base_model_name_or_path=base_name or str(base))
    if dtype is not None:
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        rewrite_weights(
            folder, lambda tensors: {name: _cast(tensor, kind) for name, tensor in tensors.items()}
        )
    return folder


def make_config(config: dict[str, Any], *, architecture: str | None = None) -> PeftConfig:
    """A PEFT config from plain keys; LORA and the architecture's own targets where none are named."""
    keys = {"peft_type": "LORA"} | copy.deepcopy(config)
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[keys.pop("peft_type")]
    fields = kind.__dataclass_fields__
    if (
        architecture
        and "target_modules" in fields
        and not keys.keys() & {"target_modules", "target_parameters"}
    ):
        keys["target_modules"] = list(ARCHITECTURES[architecture].targets)
    return kind(**keys)


def live(
    base: Path, adapter: Path, *, dtype: torch.dtype = torch.float32, num_labels: int | None = None
) -> PeftModel:
    """Base and adapter, unmerged: the model whose answers a merged one has to give."""
    settings = PeftConfig.from_pretrained(str(adapter))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _base_model(base, settings, num_labels=num_labels, dtype=dtype)
        return PeftModel.from_pretrained(model, str(adapter), low_cpu_mem_usage=False).eval()


def edit_config(folder: Path, **changes: Any) -> None:
    """Rewrite adapter_config.json with these keys; a value of `...` removes its key."""
    path = folder / CONFIG
    keys = json.loads(path.read_text()) | changes
    kept = {name: value for name, value in keys.items() if value is not ...}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def rewrite_weights(folder: Path, fn: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Replace the tensors of adapter_model.safetensors by what `fn` makes of them; the metadata stays."""
    path = folder / WEIGHTS
    with safe_open(path, "pt") as source:
        metadata = source.metadata()
    tensors = {name: tensor.clone().contiguous() for name, tensor in fn(load_file(path)).items()}
    save_file(tensors, path, metadata=metadata)


@torch.no_grad()
def perturb(model: nn.Module, *, seed: int, strength: float = STRENGTH) -> None:
    """Give each trainable tensor a seeded change: noise where it was zero, about a tenth of itself elsewhere.

    LoRA deltas that were zero are then scaled to a tenth of the weight that they are added to.
    """
    trainable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    fresh = {id(tensor) for tensor in trainable.values() if not tensor.any()}
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(trainable.items()):
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.add_(noise * strength * _size(parameter))
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            _calibrate(module, fresh=fresh)


def _strength(settings: PeftConfig) -> float:
    """The noise that suits the PEFT type."""
    return STRENGTHS.get(PeftType(settings.peft_type).value, STRENGTH)


def _size(parameter: Tensor) -> float:
    """The typical size of an entry; one for a tensor that PEFT starts at zero."""
    return parameter.float().pow(2).mean().sqrt().item() or 1.0


def _calibrate(layer: Any, *, fresh: set[int]) -> None:
    """Scale the LoRA factor that was zero until the delta is STRENGTH of the base weight, by Frobenius norm.

    BD-LoRA is left as it is: PEFT's `get_delta_weight` cannot multiply its block-diagonal factors.
    """
    variants = getattr(layer, "lora_variant", {})
    for slot in ("lora_A", "lora_B", "lora_E", "lora_embedding_A"):
        for name, entry in getattr(layer, slot, {}).items():
            factor: Any = entry.weight if isinstance(entry, nn.Module) else entry
            if id(factor) in fresh and not isinstance(variants.get(name), BdLoraLinearVariant):
                factor.mul_(STRENGTH / _ratio(layer, name))


def _ratio(layer: Any, adapter: str) -> float:
    """How large the adapter's delta is beside the weight (or the expert parameter) that it is added to."""
    weight = getattr(layer.get_base_layer(), getattr(layer, "parameter_name", None) or "weight")
    return float(layer.get_delta_weight(adapter).float().norm() / weight.float().norm())


def _base_model(
    base: Path, settings: PeftConfig, *, num_labels: int | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """The base with the head that the adapter's task type asks for."""
    kind = model_class(base, task=settings.task_type)
    options = {} if num_labels is None else {"num_labels": num_labels}
    return load(base, auto=kind.__name__, dtype=dtype, **options)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast floating point tensors; indices keep their type."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
