"""Deterministic forward inputs, one recipe for each kind of model."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from transformers import PreTrainedConfig

from tests.tiny.tokenizers import BPE_SPECIALS, VOCAB_SIZE

Recipe = Callable[[PreTrainedConfig, Generator], dict[str, Tensor]]
LENGTH = 12
#: Tokens that occur in every row, so that an activated LoRA can be called by them.
INVOCATION = (21, 22)


def text(config: PreTrainedConfig, generator: Generator) -> dict[str, Tensor]:
    """Two rows of ordinary tokens, the second padded on the right by three."""
    ids = torch.randint(len(BPE_SPECIALS), VOCAB_SIZE, (2, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    ids[:, 4 : 4 + len(INVOCATION)] = torch.tensor(INVOCATION)
    ids[1, -3:], mask[1, -3:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def seq2seq(config: PreTrainedConfig, generator: Generator) -> dict[str, Tensor]:
    """Text for the encoder and unpadded text for the decoder."""
    return text(config, generator) | {"decoder_input_ids": text(config, generator)["input_ids"][:, :-4]}


def image(config: PreTrainedConfig, generator: Generator) -> dict[str, Tensor]:
    """Two random images of the size that the vision tower takes."""
    vision = getattr(config, "vision_config", config)
    return {"pixel_values": torch.randn(2, 3, vision.image_size, vision.image_size, generator=generator)}


def image_and_text(config: PreTrainedConfig, generator: Generator) -> dict[str, Tensor]:
    """Images and captions side by side, each caption ending with the end token, as CLIP pools there."""
    batch = text(config, generator)
    batch["input_ids"][:, -1] = config.text_config.eos_token_id
    return image(config, generator) | batch


def image_in_text(config: PreTrainedConfig, generator: Generator) -> dict[str, Tensor]:
    """Text in which image tokens hold the places of the image features (LLaVA)."""
    batch = text(config, generator)
    batch["input_ids"][:, 1 : 1 + config.image_seq_length] = config.image_token_id
    return image(config, generator) | batch


def patches_and_text(config: PreTrainedConfig, generator: Generator) -> dict[str, Tensor]:
    """Text with one image of 4 by 4 patches in each row, merged two by two (Qwen2-VL)."""
    vision, batch = config.vision_config, text(config, generator)
    ids = batch["input_ids"]
    ids[:, 1], ids[:, 6] = config.vision_start_token_id, config.vision_end_token_id
    ids[:, 2:6] = config.image_token_id
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.randn(2 * 16, width, generator=generator)
    places = {"image_grid_thw": torch.tensor([[1, 4, 4]] * 2), "mm_token_type_ids": (ids == ids[0, 2]).int()}
    return batch | {"pixel_values": patches} | places


def audio(config: PreTrainedConfig, generator: Generator) -> dict[str, Tensor]:
    """Mel features for the encoder, text for the decoder."""
    frames = 2 * config.max_source_positions
    features = torch.randn(2, config.num_mel_bins, frames, generator=generator)
    return {"input_features": features, "decoder_input_ids": text(config, generator)["input_ids"][:, :-4]}


def wave(config: PreTrainedConfig, generator: Generator) -> dict[str, Tensor]:
    """Two rows of sound."""
    return {"input_values": torch.randn(2, 200, generator=generator)}


#: By the names that `architectures.py` uses.
RECIPES: dict[str, Recipe] = {
    "text": text,
    "seq2seq": seq2seq,
    "image": image,
    "image_and_text": image_and_text,
    "image_in_text": image_in_text,
    "patches_and_text": patches_and_text,
    "audio": audio,
    "wave": wave,
}
