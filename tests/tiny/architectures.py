"""The table of tiny architectures: config, small sizes, model class, LoRA targets, inputs. Data only."""

from tests.tiny.architecture import Architecture
from tests.tiny.further import ATTENTION, other_models, text_models
from tests.tiny.multimodal import entries
from tests.tiny.tokenizers import BPE_SPECIALS, VOCAB_SIZE

HIDDEN = 32
TEXT = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = TEXT | {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
ENCODER = TEXT | {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
}
GEMMA = DECODER | {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 8,
    "tie_word_embeddings": True,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
EXPERT_STACKS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
VISION = {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
PATCH_VISION = {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 4, "patch_size": 4}
IMAGE_TOKEN = BPE_SPECIALS.index("<image>")
IMAGE_TOKENS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": BPE_SPECIALS.index("<video>"),
    "vision_start_token_id": BPE_SPECIALS.index("<vision_start>"),
    "vision_end_token_id": BPE_SPECIALS.index("<vision_end>"),
}


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(config="LlamaConfig", sizes=DECODER),
    "llama_tied": Architecture(config="LlamaConfig", sizes=DECODER | {"tie_word_embeddings": True}),
    "llama_seqcls": Architecture(
        config="LlamaConfig", sizes=DECODER | {"num_labels": 3}, auto="AutoModelForSequenceClassification"
    ),
    "gpt2": Architecture(
        config="GPT2Config",
        sizes=TEXT | {"n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 64},
        targets=("c_attn", "c_proj", "c_fc"),
    ),
    "opt": Architecture(
        config="OPTConfig",
        sizes=TEXT
        | {"hidden_size": HIDDEN, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"max_position_embeddings": 64, "word_embed_proj_dim": HIDDEN},
        targets=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    ),
    "bert_model": Architecture(
        config="BertConfig",
        sizes=ENCODER,
        auto="AutoModel",
        targets=("query", "key", "value", "dense"),
        tokenizer="wordpiece",
    ),
    "bert_seqcls": Architecture(
        config="BertConfig",
        sizes=ENCODER | {"num_labels": 3},
        auto="AutoModelForSequenceClassification",
        targets=("query", "value"),
        tokenizer="wordpiece",
    ),
    "bert_tokcls": Architecture(
        config="BertConfig",
        sizes=ENCODER | {"num_labels": 5},
        auto="AutoModelForTokenClassification",
        targets=("query", "value"),
        tokenizer="wordpiece",
    ),
    "roberta_seqcls": Architecture(
        config="RobertaConfig",
        sizes=ENCODER | {"num_labels": 3, "type_vocab_size": 1},
        auto="AutoModelForSequenceClassification",
        targets=("query", "value"),
    ),
    "distilbert": Architecture(
        config="DistilBertConfig",
        sizes=TEXT
        | {"dim": HIDDEN, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
        auto="AutoModelForMaskedLM",
        targets=("q_lin", "v_lin"),
        tokenizer="wordpiece",
    ),
    "t5": Architecture(
        config="T5Config",
        sizes=TEXT
        | {"d_model": HIDDEN, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        | {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
        auto="AutoModelForSeq2SeqLM",
        targets=("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
        needs="seq2seq",
    ),
    "bart": Architecture(
        config="BartConfig",
        sizes=TEXT
        | {"d_model": HIDDEN, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        | {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        | {"decoder_start_token_id": 2, "forced_eos_token_id": 2},
        auto="AutoModelForSeq2SeqLM",
        targets=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        needs="seq2seq",
    ),
    "mistral": Architecture(config="MistralConfig", sizes=DECODER | {"sliding_window": 8}),
    "qwen2": Architecture(config="Qwen2Config", sizes=DECODER),
    "qwen3": Architecture(config="Qwen3Config", sizes=DECODER | {"head_dim": 8}),
    "qwen2_moe": Architecture(
        config="Qwen2MoeConfig",
        sizes=DECODER | EXPERTS | {"shared_expert_intermediate_size": 24},
        targets=ATTENTION,
        parameters=EXPERT_STACKS,
    ),
    "qwen3_moe": Architecture(
        config="Qwen3MoeConfig",
        sizes=DECODER | EXPERTS | {"head_dim": 8},
        targets=ATTENTION,
        parameters=EXPERT_STACKS,
    ),
    "mixtral": Architecture(
        config="MixtralConfig",
        sizes=DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2},
        targets=ATTENTION,
        parameters=EXPERT_STACKS,
    ),
    "gemma2": Architecture(config="Gemma2Config", sizes=GEMMA),
    "gemma3": Architecture(config="Gemma3TextConfig", sizes=GEMMA),
    "phi3": Architecture(
        config="Phi3Config", sizes=DECODER, targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    ),
    "gpt_neox": Architecture(
        config="GPTNeoXConfig",
        sizes=ENCODER | {"tie_word_embeddings": False},
        targets=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "bloom": Architecture(
        config="BloomConfig",
        sizes=TEXT | {"hidden_size": HIDDEN, "n_layer": 2, "n_head": 4},
        targets=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "falcon": Architecture(
        config="FalconConfig",
        sizes=TEXT | {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4},
        targets=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "mamba": Architecture(
        config="MambaConfig",
        sizes=TEXT | {"hidden_size": HIDDEN, "state_size": 8, "num_hidden_layers": 2},
        # Not dt_proj: the forward pass reads its weight past the module, so a live LoRA there does nothing.
        targets=("in_proj", "x_proj"),
    ),
    "deberta_v2": Architecture(
        config="DebertaV2Config",
        sizes=ENCODER
        | {"num_labels": 3, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
        | {"norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
        auto="AutoModelForSequenceClassification",
        targets=("query_proj", "key_proj", "value_proj"),
    ),
    "vit": Architecture(
        config="ViTConfig",
        sizes=VISION | {"num_labels": 3},
        auto="AutoModelForImageClassification",
        targets=("q_proj", "v_proj"),
        tokenizer=None,
        needs="image",
    ),
    "clip": Architecture(
        config="CLIPConfig",
        sizes={"text_config": ENCODER, "vision_config": VISION, "projection_dim": 16},
        auto="AutoModel",
        targets=("q_proj", "k_proj", "v_proj", "out_proj"),
        needs="image_and_text",
    ),
    "whisper": Architecture(
        config="WhisperConfig",
        sizes=TEXT
        | {"d_model": HIDDEN, "encoder_layers": 2, "decoder_layers": 2, "num_mel_bins": 8}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        | {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_start_token_id": 1}
        | {"max_source_positions": 16, "max_target_positions": 32, "begin_suppress_tokens": None},
        auto="AutoModelForSpeechSeq2Seq",
        targets=("q_proj", "v_proj"),
        needs="audio",
    ),
    "qwen2_vl": Architecture(
        config="Qwen2VLConfig",
        sizes=IMAGE_TOKENS
        | {"text_config": DECODER | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}}
        | {"vision_config": PATCH_VISION},
        auto="AutoModelForImageTextToText",
        needs="patches_and_text",
    ),
    "llava": Architecture(
        config="LlavaConfig",
        sizes={"text_config": DECODER | {"model_type": "llama"}, "image_token_index": IMAGE_TOKEN}
        | {"vision_config": VISION | {"model_type": "clip_vision_model"}, "image_seq_length": 4},
        auto="AutoModelForImageTextToText",
        needs="image_in_text",
    ),
    "gpt_oss": Architecture(
        config="GptOssConfig",
        sizes=DECODER
        | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
        | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
        targets=ATTENTION,
        parameters=EXPERT_STACKS,
    ),
    "deepseek_v3": Architecture(
        config="DeepseekV3Config",
        sizes=DECODER
        | {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2}
        | {"n_group": 2, "topk_group": 1}
        | {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 12, "qk_rope_head_dim": 4}
        | {"qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1},
        targets=("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
        parameters=EXPERT_STACKS,
    ),
    "jamba": Architecture(
        config="JambaConfig",
        sizes=DECODER
        | {"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2}
        | {"mamba_d_state": 8, "mamba_dt_rank": 4},
        targets=(*ATTENTION, "in_proj", "x_proj"),
        parameters=("feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"),
    ),
}

MORE = {
    name: Architecture(config=config, sizes=sizes, auto="AutoModelForImageTextToText", targets=ATTENTION)
    for name, (config, sizes) in entries(
        text=DECODER, gemma=GEMMA, vision=VISION, tokens=IMAGE_TOKENS
    ).items()
}
MORE |= text_models(text=DECODER, gemma=GEMMA, tiny=TEXT)
MORE |= other_models(encoder=ENCODER, vision=VISION, gemma=GEMMA, bart=ARCHITECTURES["bart"].sizes, tiny=TEXT)
ARCHITECTURES |= MORE
SLOW = frozenset(MORE)  # by their number only
