"""Binds plain LoRA by names and headers alone: no model is built, neither transformers nor PEFT is imported.

This is for adapters where nothing can be hidden: every adapter tensor names a tensor on disk, all shapes agree, the
config's targets are exactly these modules, and nothing that is tied is touched. For everything else the answer is
None, and `bot.merge.binding` looks at the model itself. Both ways give the same bindings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bot.plan.key_patterns import by_pattern
from bot.records import Binding
from bot.weights.header import FLOATS, TensorSpec
from bot.weights.layout import Layout

PREFIX = "base_model.model."
FACTOR = re.compile(rf"{re.escape(PREFIX)}(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector)")
LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")
SECOND = "mtp."
NOT_CALLED = ".dt_proj"  # of Mamba's mixers: see `bot.merge.called.check_called`
PLAIN_KEY = re.compile(r"[\w.]+")
# Architectures whose modules are all nn.Linear, under the names that the checkpoint uses (experts one by one, as
# transformers 4 had them). A test holds each of them against the model itself.
MODEL_TYPES = frozenset(
    {
        "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3",
        "qwen2_moe", "qwen3_moe", "qwen3_next", "mixtral", "olmoe", "phimoe", "jamba", "glm4_moe", "deepseek_v2",
        "deepseek_v3",
    }
)  # fmt: skip
# Keys that say where or how in a way that names do not tell: unless empty, the model has to be looked at.
SUBTLE = (
    "modules_to_save", "exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters",
    "trainable_token_indices", "lora_bias", "ensure_weight_tying", "fan_in_fan_out", "velora_config", "kasa_config",
    "monteclora_config", "use_bdlora", "arrow_config", "use_qalora", "alora_invocation_tokens", "layer_replication",
)  # fmt: skip
INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def bind_by_names(
    config: Mapping[str, Any],
    *,
    adapter_config: Mapping[str, Any],
    tensors: Mapping[str, TensorSpec],
    layout: Layout,
) -> tuple[Binding, ...] | None:
    """The bindings, or None when names alone do not tell. `config` is the base's config.json."""
    if not _is_plain_model(config) or not _is_plain_adapter(adapter_config):
        return None
    if _trained_class(adapter_config) not in (None, config["architectures"][0]):
        return None
    modules = _factors(tensors)
    targets, layers = adapter_config["target_modules"], config["num_hidden_layers"]
    if not _has_layers(layout, layers):
        return None
    if modules is None or modules.keys() != _targeted(targets, layout=layout, layers=layers):
        return None
    bindings = []
    for module, factors in modules.items():
        binding = _bind(module, factors, config=config, adapter_config=adapter_config, layout=layout)
        if binding is None:
            return None
        bindings.append(binding)
    return tuple(bindings)


def _is_plain_model(config: Mapping[str, Any]) -> bool:
    classes = config.get("architectures")
    return (
        str(config.get("model_type")) in MODEL_TYPES
        and isinstance(classes, list)
        and len(classes) == 1
        and str(classes[0]).endswith("ForCausalLM")
        and all(type(config.get(key)) is int for key in ("vocab_size", "hidden_size", "num_hidden_layers"))
    )


def _is_plain_adapter(config: Mapping[str, Any]) -> bool:
    targets = config.get("target_modules")
    return (
        config.get("peft_type") == "LORA"
        and config.get("task_type") in (None, "CAUSAL_LM")
        and config.get("bias", "none") == "none"
        and not any(config.get(key) or _is_zero(config.get(key)) for key in SUBTLE)
        and any(
            config.get("init_lora_weights", True) is i or config.get("init_lora_weights") == i for i in INITS
        )
        and isinstance(targets, list)
        and all(isinstance(t, str) and PLAIN_KEY.fullmatch(t) for t in targets)
        and all(PLAIN_KEY.fullmatch(k) for key in PATTERNS for k in config.get(key) or {})
    )


def _trained_class(config: Mapping[str, Any]) -> Any:
    """The model class that PEFT writes down where no task type was given."""
    mapping = config.get("auto_mapping")
    return mapping.get("base_model_class") if isinstance(mapping, dict) else mapping


def _is_zero(value: Any) -> bool:
    """`layers_to_transform: 0` means the first layer alone."""
    return type(value) is int and value == 0


PATTERNS = ("rank_pattern", "alpha_pattern")


def _factors(tensors: Mapping[str, TensorSpec]) -> dict[str, dict[str, TensorSpec]] | None:
    """The adapter's tensors by module and role; None when one of them is something else."""
    found: dict[str, dict[str, TensorSpec]] = {}
    for name, spec in tensors.items():
        match = FACTOR.fullmatch(name)
        if match is None:
            return None
        found.setdefault(match[1], {})[match[2]] = spec
    return found


def _has_layers(layout: Layout, layers: int) -> bool:
    """Whether each layer that config.json promises has tensors: transformers would make up those of any other."""
    found = {int(match[1]) for name in layout.tensors if (match := LAYER.match(name))}
    return found >= set(range(layers))


def _targeted(targets: list[str], *, layout: Layout, layers: int) -> set[str]:
    """The modules on disk that PEFT's rule for lists matches: the whole name, or its end after a dot.

    Without layers that predict a second token, which transformers does not build: DeepSeek-V3's and GLM-4.5's last one,
    and those of Qwen3-Next under a name of their own.
    """
    modules = {name.removesuffix(".weight") for name in layout.tensors if name.endswith(".weight")}
    modules = {m for m in modules if not m.startswith(SECOND)}
    built = (m for m in modules if not ((found := LAYER.match(m)) and int(found[1]) >= layers))
    return {m for m in built for t in targets if m == t or m.endswith(f".{t}")}


def _bind(
    module: str,
    factors: Mapping[str, TensorSpec],
    *,
    config: Mapping[str, Any],
    adapter_config: Mapping[str, Any],
    layout: Layout,
) -> Binding | None:
    roles = {"lora_A.weight", "lora_B.weight"} | (
        {"lora_magnitude_vector"} if adapter_config.get("use_dora") else set()
    )
    weight = layout.tensors[f"{module}.weight"]
    if factors.keys() != roles or weight.dtype not in FLOATS or len(weight.shape) != 2:
        return None
    if config["vocab_size"] in weight.shape or module.endswith(
        NOT_CALLED
    ):  # embeddings and heads may be tied
        return None
    rank, (rows, columns) = rank_of(module, adapter_config), weight.shape
    shapes = {
        "lora_A.weight": (rank, columns),
        "lora_B.weight": (rows, rank),
        "lora_magnitude_vector": (rows,),
    }
    if any(spec.shape != shapes[role] or spec.dtype not in FLOATS for role, spec in factors.items()):
        return None
    return Binding(
        tensor=weight.name,
        source=weight.name,
        parameter=weight.name,
        method="dora" if adapter_config.get("use_dora") else "lora",
        adapter=tuple(factors[role].name for role in sorted(roles)),
        shape=weight.shape,
        dtype=weight.dtype,
        scale=scale_of(module, adapter_config),
    )


def rank_of(module: str, config: Mapping[str, Any]) -> int:
    """The rank of a module's adapter, as PEFT finds it."""
    return int(_by_pattern("rank_pattern", module, config, default=config.get("r", 8)))


def scale_of(module: str, config: Mapping[str, Any]) -> float:
    """The factor of B·A: alpha / r, or alpha / √r for rsLoRA (arXiv:2312.03732)."""
    rank = rank_of(module, config)
    alpha = float(_by_pattern("alpha_pattern", module, config, default=config["lora_alpha"]))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _by_pattern(key: str, module: str, config: Mapping[str, Any], *, default: Any) -> Any:
    """The value of the first pattern that the end of the module's name matches (bot.plan.key_patterns)."""
    found = by_pattern(config.get(key) or {}, module)
    return default if found is None else found
