"""Further text, vision and sound models that people put adapters on, one line each. Data only."""

from typing import Any

from tests.tiny.architecture import Architecture

Sizes = dict[str, Any]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
STACKS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")


def text_models(*, text: Sizes, gemma: Sizes, tiny: Sizes) -> dict[str, Architecture]:
    """Decoders. `text`: a llama's sizes, `gemma`: a gemma's, `tiny`: vocabulary alone."""
    head, routed = {"head_dim": 8}, {"num_local_experts": 4, "num_experts_per_tok": 2}
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    linear |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    mixed = {"layer_types": ["linear_attention", "full_attention"]}
    few = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    few |= {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    latent = {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 12, "qk_rope_head_dim": 4}
    latent |= {"qk_nope_head_dim": 8, "v_head_dim": 8, "n_shared_experts": 1, "head_dim": 4}
    plain = {
        "granite": ("GraniteConfig", text),
        "glm4": ("Glm4Config", text | head),
        "cohere2": ("Cohere2Config", text | {"tie_word_embeddings": True}),
        "stablelm": ("StableLmConfig", text),
        "olmo2": ("Olmo2Config", text),
        "smollm3": ("SmolLM3Config", text),
        "exaone4": ("Exaone4Config", text | head | {"layer_types": ["sliding_attention", "full_attention"]}),
        "granitemoe": ("GraniteMoeConfig", text | routed),
    }
    mixtures = {
        "olmoe": ("OlmoeConfig", text | {"num_experts": 4, "num_experts_per_tok": 2}),
        "phimoe": ("PhimoeConfig", text | {"num_local_experts": 4}),
        "glm4_moe": ("Glm4MoeConfig", text | head | few),
        "deepseek_v2": ("DeepseekV2Config", text | few | latent),
        "qwen3_next": (
            "Qwen3NextConfig",
            text | head | linear | mixed
            | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
            | {"shared_expert_intermediate_size": 24},
        ),
    }  # fmt: skip
    found = {n: Architecture(config=c, sizes=s, targets=ATTENTION) for n, (c, s) in plain.items()}
    found |= {
        n: Architecture(config=c, sizes=s, targets=("q_b_proj", *ATTENTION), parameters=STACKS)
        for n, (c, s) in mixtures.items()
    }
    return found | _with_other_layers(text=text, gemma=gemma, tiny=tiny)


def _with_other_layers(*, text: Sizes, gemma: Sizes, tiny: Sizes) -> dict[str, Architecture]:
    """Decoders whose layers are not all attention and a gated MLP."""
    head, ssm = {"head_dim": 8}, {"mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
    found = {
        "starcoder2": ("Starcoder2Config", text, (*ATTENTION, "c_fc", "c_proj")),
        "falcon_h1": (
            "FalconH1Config",
            text | ssm | head | {"mamba_d_ssm": 32, "mamba_n_heads": 4},
            (*ATTENTION, "in_proj"),
        ),
        "bamba": ("BambaConfig", text | ssm | {"attn_layer_indices": [1], "mamba_n_heads": 8}, ("q_proj", "in_proj")),
        "lfm2": ("Lfm2Config", text | {"layer_types": ["conv", "full_attention"]}, ("q_proj", "w1", "in_proj")),
        "nemotron_h": (
            "NemotronHConfig",
            text | head
            | {"layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8}
            | {"ssm_state_size": 8, "n_groups": 1},
            ("q_proj", "in_proj"),
        ),
        "mamba2": (
            "Mamba2Config",
            tiny | {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "num_heads": 8}
            | {"head_dim": 8, "n_groups": 1, "chunk_size": 4},
            ("in_proj",),
        ),
        "recurrent_gemma": (
            "RecurrentGemmaConfig",
            gemma | {"lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "attention"]},
            ("q_proj", "linear_x", "gate_proj"),
        ),
    }  # fmt: skip
    return {n: Architecture(config=c, sizes=s, targets=t) for n, (c, s, t) in found.items()}


def other_models(
    *, encoder: Sizes, vision: Sizes, gemma: Sizes, bart: Sizes, tiny: Sizes
) -> dict[str, Architecture]:
    """Encoders, encoder-decoders, vision and sound."""
    seq2seq: dict[str, Any] = {"auto": "AutoModelForSeq2SeqLM", "needs": "seq2seq"}
    masked: dict[str, Any] = {"auto": "AutoModelForMaskedLM"}
    images: dict[str, Any] = {"auto": "AutoModelForImageClassification", "tokenizer": None, "needs": "image"}
    t5 = tiny | {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    patches = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
    sound = tiny | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sound |= {"num_attention_heads": 4, "conv_dim": [8, 8], "conv_stride": [4, 2], "conv_kernel": [4, 2]}
    sound |= {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    table: dict[str, tuple[str, Sizes, tuple[str, ...], dict[str, Any]]] = {
        "mt5": ("MT5Config", t5 | {"decoder_start_token_id": 0}, ("q", "v", "wi_0"), seq2seq),
        "pegasus": ("PegasusConfig", bart, ("q_proj", "fc1"), seq2seq),
        "marian": ("MarianConfig", bart, ("q_proj", "fc1"), seq2seq),
        "t5gemma": (
            "T5GemmaConfig",
            {"encoder": gemma, "decoder": gemma, "vocab_size": gemma["vocab_size"]},
            ATTENTION,
            seq2seq,
        ),
        "modernbert": (
            "ModernBertConfig",
            encoder | {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
            ("Wqkv", "Wo", "Wi"),
            masked,
        ),
        "xlm_roberta": ("XLMRobertaConfig", encoder, ("query", "value", "dense"), masked),
        "dinov2": (
            "Dinov2Config",
            vision | {"num_labels": 3},
            ("query", "value", "q_proj", "v_proj"),
            images,
        ),
        "swin": (
            "SwinConfig",
            patches | {"window_size": 4, "num_labels": 3},
            ("query", "value", "q_proj", "v_proj"),
            images,
        ),
        "siglip": (
            "SiglipConfig",
            {"text_config": encoder, "vision_config": vision},
            ("fc1",),  # a cosine moves little: this is what shows most
            {"auto": "AutoModel", "needs": "image_and_text"},
        ),
        "wav2vec2": (
            "Wav2Vec2Config",
            sound,
            ("q_proj", "v_proj"),
            {"auto": "AutoModelForCTC", "tokenizer": None, "needs": "wave"},
        ),
    }
    return {n: Architecture(config=c, sizes=s, targets=t, **more) for n, (c, s, t, more) in table.items()}
