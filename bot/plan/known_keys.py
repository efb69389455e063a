"""The keys of `adapter_config.json` that PEFT 0.21 knows for LoRA. A test compares them with the installed PEFT."""

from __future__ import annotations

COMMON = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
        "task_type",
    }
)  # fmt: skip
LORA = COMMON | {
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "init_lora_weights", "kasa_config", "layer_replication",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "monteclora_config",
    "qalora_group_size", "r", "rank_pattern", "runtime_config", "target_modules", "target_parameters",
    "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config",
}  # fmt: skip
