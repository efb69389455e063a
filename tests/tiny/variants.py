"""Adapter configs for the tiny models: LoRA in every flavour, and every PEFT type. Data only.

A config without targets gets those of its architecture. Each one is for `llama` unless SUITS names another.
"""

from typing import Any

from peft import KasaConfig, VeloraConfig
from peft.tuners.lora.config import BdLoraConfig, EvaConfig, MontecloraConfig

Config = dict[str, Any]

SMALL = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
QV = ["q_proj", "v_proj"]

LORA_VARIANTS: dict[str, Config] = {
    "plain": SMALL,
    "odd_scale": SMALL | {"r": 3, "lora_alpha": 7},
    "rslora": SMALL | {"use_rslora": True},
    "patterns": SMALL | {"rank_pattern": {"q_proj": 2, "down_proj": 6}, "alpha_pattern": {"q_proj": 3}},
    "pattern_regex": SMALL | {"rank_pattern": {r"^model\.layers\.1\.self_attn\.\w+_proj": 2}},
    "layers_to_transform": SMALL | {"target_modules": QV, "layers_to_transform": [1]},
    "layers_pattern": SMALL | {"target_modules": QV, "layers_to_transform": [0], "layers_pattern": "layers"},
    "regex_targets": SMALL | {"target_modules": r".*layers\.\d+\.mlp\.(up|down)_proj"},
    "exclude_modules": SMALL | {"target_modules": QV, "exclude_modules": r".*layers\.0\..*"},
    "all_linear": SMALL | {"target_modules": "all-linear"},
    "gaussian": SMALL | {"init_lora_weights": "gaussian"},
    "bias_all": SMALL | {"bias": "all"},
    "bias_lora_only": SMALL | {"bias": "lora_only"},
    "lora_bias": SMALL | {"lora_bias": True},
    "lora_bias_on_bias": SMALL | {"lora_bias": True},
    "dora": SMALL | {"use_dora": True},
    "dora_rslora_patterns": SMALL | {"use_dora": True, "use_rslora": True, "rank_pattern": {"v_proj": 2}},
    "dora_embedding": SMALL | {"use_dora": True, "target_modules": [*QV, "embed_tokens"]},
    "save_lm_head": SMALL | {"target_modules": QV, "modules_to_save": ["lm_head"]},
    "save_embed_and_head": SMALL | {"target_modules": QV, "modules_to_save": ["embed_tokens", "lm_head"]},
    "save_norm": SMALL | {"target_modules": QV, "modules_to_save": ["input_layernorm"]},
    "embedding": SMALL | {"target_modules": [*QV, "embed_tokens"]},
    "lm_head": SMALL | {"target_modules": [*QV, "lm_head"]},
    "embedding_and_head": SMALL | {"target_modules": [*QV, "embed_tokens", "lm_head"]},
    "weight_tying": SMALL | {"target_modules": [*QV, "embed_tokens"], "ensure_weight_tying": True},
    "weight_tying_both": SMALL | {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "weight_tying_save": SMALL
    | {"target_modules": QV, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "trainable_tokens": SMALL | {"target_modules": QV, "trainable_token_indices": [7, 11, 300]},
    "trainable_tokens_tied": SMALL
    | {"target_modules": QV, "trainable_token_indices": {"embed_tokens": [7, 11]}},
    "target_parameters": SMALL
    | {"target_modules": QV, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    "target_parameters_transposed": SMALL
    | {"target_modules": QV, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]},
    "router_parameter": SMALL | {"target_modules": QV, "target_parameters": ["mlp.gate.weight"]},
    "conv1d_fan_in_fan_out": SMALL | {"fan_in_fan_out": True},
    "conv2d": {"r": 4, "target_modules": ["q_proj", "projection"]},
    "seq_cls": SMALL | {"task_type": "SEQ_CLS", "target_modules": QV},
    "token_cls": {"r": 4, "task_type": "TOKEN_CLS", "target_modules": ["query", "value"]},
    "pissa": SMALL | {"init_lora_weights": "pissa"},
    "olora": SMALL | {"init_lora_weights": "olora"},
    "orthogonal": SMALL | {"init_lora_weights": "orthogonal"},
    "mica": SMALL | {"init_lora_weights": "mica"},
    "kasa": SMALL | {"kasa_config": KasaConfig()},
    "velora": SMALL | {"velora_config": VeloraConfig(num_groups=8)},
    "monteclora": SMALL | {"monteclora_config": MontecloraConfig()},
    "bdlora": SMALL
    | {"use_bdlora": BdLoraConfig(target_modules_bd_a=["q_proj"], target_modules_bd_b=["o_proj"], nblocks=2)}
    | {"target_modules": ["q_proj", "o_proj"]},
    "eva": SMALL | {"init_lora_weights": "eva", "eva_config": EvaConfig()},
    "alora": SMALL | {"alora_invocation_tokens": [21, 22]},
    "layer_replication": SMALL | {"layer_replication": [[0, 2], [1, 2]]},
}

#: The architecture for the variants and tuners that the tiny llama does not suit.
SUITS: dict[str, str] = {
    "bias_all": "opt",
    "bias_lora_only": "gpt2",
    "lora_bias_on_bias": "opt",
    "conv1d_fan_in_fan_out": "gpt2",
    "weight_tying": "llama_tied",
    "weight_tying_both": "llama_tied",
    "weight_tying_save": "llama_tied",
    "trainable_tokens_tied": "llama_tied",
    "target_parameters": "qwen3_moe",
    "router_parameter": "qwen3_moe",
    "target_parameters_transposed": "gpt_oss",
    "conv2d": "vit",
    "token_cls": "bert_model",
    "BEFT": "opt",
}

LM = {"task_type": "CAUSAL_LM"}
BANK = LM | {"r": 4, "num_vectors": 16, "vector_length": 8, "init_vector_bank_bound": 0.3}
PROMPT = LM | {"num_virtual_tokens": 4}

#: One or more configs for each PEFT type; the part of a name before the dot is its `peft_type`.
#: XLORA is not here: its config names other adapters by path, and it wants a base with `use_cache: false`.
#: Arrow (a LoRA with `arrow_config`) likewise: PEFT builds it from several saved adapters.
#: BOFT with more than one butterfly factor needs a CUDA extension; without it PEFT goes on with one factor.
TUNERS: dict[str, Config] = {
    "LORA": SMALL,
    "ADALORA": LM | {"init_r": 4, "target_r": 2, "total_step": 10, "lora_alpha": 8},
    "ADALORA.pruned": LM
    | {
        "init_r": 4,
        "target_r": 2,
        "total_step": 10,
        "lora_alpha": 8,
        "rank_pattern": {
            "model.layers.0.self_attn.q_proj.lora_E": [True, False, True, True],
            "model.layers.0.self_attn.v_proj.lora_E": [False, False, False, False],
            "model.layers.1.self_attn.q_proj.lora_E": [False, False, False, True],
        },
    },
    "ADAMSS": LM | {"r": 8, "num_subspaces": 2, "target_modules": QV},
    "ADAPTION_PROMPT": LM | {"target_modules": "self_attn", "adapter_len": 4, "adapter_layers": 2},
    "BEFT": LM,
    "BOFT": LM | {"boft_block_size": 4},
    "C3A": LM | {"block_size": 8},
    "CARTRIDGE": PROMPT,
    "CPT": LM | {"cpt_token_ids": [9, 10, 11], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 4]},
    "DEFT": LM | {"r": 4},
    "DEFT.qr": LM | {"r": 4, "decomposition_method": "qr"},
    "DELORA": LM | {"r": 4, "delora_lambda": 1},
    "FOURIERFT": LM | {"n_frequency": 50, "scaling": 4.0},
    "FROD": LM | {"progressbar": False},
    "GLORA": LM | {"r": 4},
    "GRALORA": LM | {"r": 4, "alpha": 8, "gralora_k": 2},
    "GRALORA.hybrid": LM | {"r": 8, "alpha": 8, "gralora_k": 2, "hybrid_r": 2},
    "HIRA": LM | {"r": 4},
    "HRA": LM | {"r": 4},
    "HRA.gram_schmidt": LM | {"r": 4, "apply_GS": True},
    "IA3": LM | {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LILY": LM | {"r": 4},
    "LN_TUNING": LM | {"target_modules": ["input_layernorm", "post_attention_layernorm", "norm"]},
    "LOHA": LM | {"r": 4, "alpha": 8},
    "LOKR": LM | {"r": 4, "alpha": 8},
    "LOKR.decomposed": LM | {"r": 2, "alpha": 4, "decompose_both": True, "decompose_factor": 4},
    "MISS": LM | {"r": 4},
    "MISS.bat": LM | {"r": 8, "init_weights": "bat"},
    "MISS.mini": LM | {"r": 4, "mini_r": 4, "init_weights": "mini"},
    "OFT": LM | {"r": 0, "oft_block_size": 8},
    "OFT.shared": LM | {"r": 4, "oft_block_size": 0, "block_share": True, "use_cayley_neumann": False},
    "SHIRA": LM | {"r": 4, "random_seed": 3},
    "PROMPT_TUNING": PROMPT,
    "MULTITASK_PROMPT_TUNING": PROMPT | {"num_tasks": 2},
    "OSF": LM | {"effective_rank": 8},
    "P_TUNING": PROMPT | {"encoder_hidden_size": 16},
    "PEANUT": LM | {"r": 4},
    "PEANUT.deep": LM | {"r": 4, "depth": 2},
    "POLY": LM | {"r": 4},
    "PREFIX_TUNING": PROMPT,
    "PSOFT": LM | {"r": 4, "psoft_alpha": 4},
    "PVERA": LM | {"r": 8, "d_initial": 0.5, "target_modules": QV},
    "RANDLORA": LM | {"r": 4, "randlora_alpha": 4, "target_modules": QV},
    "ROAD": LM | {"group_size": 8},
    "ROAD.two": LM | {"group_size": 8, "variant": "road_2"},
    "SHADOW": LM | {"r": 4, "target_modules": r".*layers\.\d+"},
    "SUPERTUNING": LM | {"sparsity": 0.9},
    "TINYLORA": LM | {"u": 8, "target_modules": QV},
    "TRAINABLE_TOKENS": LM | {"token_indices": [7, 11, 300], "target_modules": ["embed_tokens"]},
    "UNILORA": LM | {"r": 4, "theta_d_length": 64, "init_theta_d_bound": 1.0},
    "VBLORA": BANK,
    "VBLORA.topk_only": BANK | {"save_only_topk_weights": True},
    "VERA": LM | {"r": 8, "d_initial": 0.5},
    "VERA.unsaved": LM | {"r": 8, "d_initial": 0.5, "save_projection": False},
    "WAVEFT": LM | {"n_frequency": 100, "scaling": 0.5},
}
TUNERS = {name: {"peft_type": name.partition(".")[0]} | config for name, config in TUNERS.items()}

#: How strong the noise is, where a tenth would be far too much or too little to see (see `perturb`).
STRENGTHS: dict[str, float] = {
    "BEFT": 0.02,
    "BOFT": 0.05,
    "DEFT": 1.0,
    "GRALORA": 0.05,
    "HIRA": 0.5,
    "HRA": 0.05,
    "LOHA": 0.25,
    "LOKR": 0.05,
    "MISS": 0.015,
    "OFT": 0.025,
    "PSOFT": 0.05,
    "SHIRA": 0.04,
    "SUPERTUNING": 0.06,
}
