"""Image-text models beside the two in `architectures.py`, asked with text alone. Data only."""

from typing import Any

#: Name → config class and sizes, by the sizes of a text decoder and a vision tower.
Entries = dict[str, tuple[str, dict[str, Any]]]
Sizes = dict[str, Any]
HEAD = {"head_dim": 8}


def entries(*, text: Sizes, gemma: Sizes, vision: Sizes, tokens: dict[str, int]) -> Entries:
    """The table. `tokens`: ids of the image tokens."""
    image = {"image_token_index": tokens["image_token_id"]}
    return (
        _qwens(text, tokens=tokens)
        | _on_clip_or_siglip(text, gemma=gemma, vision=vision, image=image)
        | _on_their_own(text, vision=vision, image=image)
    )


def _qwens(text: Sizes, *, tokens: dict[str, int]) -> Entries:
    mrope = {"rope_type": "default", "mrope_section": [2, 1, 1]}
    patches = {"depth": 2, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64}
    patches |= {"num_heads": 4, "patch_size": 4}
    window = {"fullatt_block_indexes": [1], "window_size": 16}
    positions = {"num_position_embeddings": 16}
    return {
        "qwen2_5_vl": (
            "Qwen2_5_VLConfig",
            tokens | {"text_config": text | {"rope_parameters": mrope}, "vision_config": patches | window},
        ),
        "qwen3_vl": (
            "Qwen3VLConfig",
            tokens
            | {"text_config": text | HEAD | {"rope_parameters": mrope}}
            | {"vision_config": patches | positions | {"deepstack_visual_indexes": [0]}},
        ),
        "qwen3_5": (
            "Qwen3_5Config",
            tokens
            | {
                "text_config": text
                | HEAD
                | {"layer_types": ["linear_attention", "full_attention"]}
                | {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
                | {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
                | {"rope_parameters": mrope | {"partial_rotary_factor": 1.0, "rope_theta": 10000.0}}
            }
            | {"vision_config": patches | positions},
        ),
    }


def _on_clip_or_siglip(text: Sizes, *, gemma: Sizes, vision: Sizes, image: Sizes) -> Entries:
    """With a vision tower that is a model of its own."""
    clip = vision | {"model_type": "clip_vision_model"}
    siglip = vision | {"model_type": "siglip_vision_model"}
    llama = text | {"model_type": "llama"}
    return {
        "llava_next": (
            "LlavaNextConfig",
            image
            | {"text_config": llama, "vision_config": clip, "image_seq_length": 4}
            | {"image_grid_pinpoints": [[16, 32], [32, 16]]},
        ),
        "vipllava": (
            "VipLlavaConfig",
            image | {"text_config": llama, "vision_config": clip, "vision_feature_layers": [-1]},
        ),
        "video_llava": ("VideoLlavaConfig", image | {"text_config": llama, "vision_config": clip}),
        "llava_onevision": (
            "LlavaOnevisionConfig",
            image
            | {"text_config": text | {"model_type": "qwen2"}, "vision_config": siglip}
            | {"image_grid_pinpoints": [[16, 16], [16, 32]]},
        ),
        "paligemma": (
            "PaliGemmaConfig",
            image
            | {"text_config": text | HEAD | {"model_type": "gemma", "tie_word_embeddings": True}}
            | {"vision_config": siglip | {"projection_dim": 32}, "projection_dim": 32},
        ),
        "gemma3_vl": (
            "Gemma3Config",
            image
            | {"text_config": gemma | {"model_type": "gemma3_text"}, "vision_config": siglip}
            | {"mm_tokens_per_image": 1},
        ),
    }


def _on_their_own(text: Sizes, *, vision: Sizes, image: Sizes) -> Entries:
    """With a vision tower made for them."""
    llama, token = text | {"model_type": "llama"}, {"image_token_id": image["image_token_index"]}
    return {
        "mllama": (
            "MllamaConfig",
            image
            | {"text_config": text | {"cross_attention_layers": [1], "model_type": "mllama_text_model"}}
            | {
                "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
                | {"num_global_layers": 1, "attention_heads": 4, "image_size": 16, "patch_size": 8}
                | {"vision_output_dim": 64, "intermediate_layers_indices": [0], "max_num_tiles": 1}
                | {"supported_aspect_ratios": [[1, 1]]}
            },
        ),
        "idefics3": (
            "Idefics3Config",
            {"text_config": llama, "vision_config": vision, "scale_factor": 2} | token,
        ),
        "internvl": (
            "InternVLConfig",
            {"text_config": text | {"model_type": "qwen2"}, "image_seq_length": 1}
            | {"vision_config": vision | {"image_size": [16, 16], "patch_size": [8, 8]}}
            | token,
        ),
        "aria": (
            "AriaConfig",
            image
            | {
                "text_config": text
                | {"model_type": "aria_text", "moe_num_experts": 4, "moe_topk": 2}
                | {"moe_num_shared_experts": 1}
            }
            | {"vision_config": vision | {"model_type": "idefics3_vision"}}
            | {"projector_patch_to_query_dict": {"4": 4}},
        ),
        "mistral3": (
            "Mistral3Config",
            image
            | {"text_config": text | HEAD | {"model_type": "mistral"}}
            | {"vision_config": vision | HEAD | {"model_type": "pixtral", "image_size": 32}},
        ),
        "llama4": (
            "Llama4Config",
            image
            | {
                "text_config": text
                | HEAD
                | {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 16}
                | {"interleave_moe_layer_step": 2, "model_type": "llama4_text"}
            }
            | {
                "vision_config": vision
                | {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
                | {"intermediate_size": 32}
                | {"pixel_shuffle_ratio": 1.0}
            },
        ),
    }
