"""Made-up pictures and sounds to ask models with, the same each time, through the model's own processor where it is.

A picture is a coloured slope with a disc and stripes, a sound is a gliding tone: models answer to edges and pitch as
they do to real ones, where noise is all alike to them. Where there is no processor, the config says the shape.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor

from bot.validate.models import LOCAL

Array = np.ndarray[Any, np.dtype[Any]]
Row = dict[str, Tensor]
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
PICTURES = 4
SOUNDS = 2
RATE = 16_000  # samples a second: what speech models take
SECONDS = 1.0
SIDE = 64  # pixels of a picture that a processor is given, which makes it as large as it wants
GRID = 4  # patches each way, for models that take any number of them


def media(folder: Path, *, model: Any, texts: list[Tensor]) -> tuple[list[Row], bool]:
    """What the model is asked in pictures or sound, and whether that is in place of text alone, or beside it.

    `texts`: ids, [rows, tokens] each, for models that take both.
    """
    name = getattr(model, "main_input_name", "input_ids")
    if name == "pixel_values":
        return [_for_decoder(row, model, texts) for row in _pictures(folder, model.config)], True
    if name in ("input_features", "input_values"):
        return [_for_decoder(row, model, texts) for row in _sounds(folder, model, name=name)], True
    if name != "input_ids" or "pixel_values" not in _takes(model) or not texts:
        return [], name != "input_ids"
    if _image_token(model.config) is None:
        pairs = [row for row in _side_by_side(folder, model, texts) if _is_answered(model, row)]
        return pairs, bool(pairs)
    offers = itertools.chain(_processed(folder), _placed(model, texts[0]))
    return next(([row] for row in offers if _is_answered(model, row)), []), False


def picture(number: int, *, height: int, width: int, channels: int = 3) -> Array:
    """Picture `number`, [height, width, channels], from 0 to 1."""
    generator = np.random.default_rng(number)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    slopes = generator.uniform(-1, 1, (2, channels))
    shown = 0.5 + 0.4 * (y[..., None] - 0.5) * slopes[0] + 0.4 * (x[..., None] - 0.5) * slopes[1]
    middle, radius = generator.uniform(0.3, 0.7, 2), generator.uniform(0.15, 0.3)
    disc = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    shown[disc] = generator.uniform(0, 1, channels)
    stripes = np.sin(2 * np.pi * generator.uniform(2, 6) * (x + y)) > 0.6
    shown[stripes & ~disc] *= 0.5
    result: Array = np.clip(shown + generator.normal(0, 0.02, shown.shape), 0, 1)
    return result


def sound(number: int, *, samples: int = int(RATE * SECONDS)) -> Array:
    """Sound `number`, [samples], from -1 to 1: a tone with two overtones that glides upwards and swells."""
    generator = np.random.default_rng(number)
    time = np.arange(samples) / RATE
    pitch = generator.uniform(110, 220) * (1 + 0.5 * time)
    tone = np.sum([np.sin(2 * np.pi * n * pitch * time) / n for n in (1, 2, 3)], axis=0)
    swell = np.sin(np.pi * np.arange(samples) / samples) ** 2
    return np.asarray(0.3 * tone * swell + generator.normal(0, 0.005, samples), dtype=np.float32)


def _pictures(folder: Path, config: Any) -> list[Row]:
    """One row for each picture."""
    shown = [picture(number, height=SIDE, width=SIDE) for number in range(PICTURES)]
    if (processor := _loaded(AutoImageProcessor, folder)) is not None:
        made = [processor(images=(255 * image).astype(np.uint8), return_tensors="pt") for image in shown]
        return [{"pixel_values": found["pixel_values"]} for found in made]
    return [{"pixel_values": _pixels(number, config)} for number in range(PICTURES)]


def _pixels(number: int, config: Any) -> Tensor:
    """A picture of the size that the config names, [1, channels, height, width], from -1 to 1."""
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    shown = picture(number, height=height, width=width, channels=getattr(config, "num_channels", 3))
    return torch.from_numpy(2 * shown - 1).float().permute(2, 0, 1)[None].contiguous()


def _sounds(folder: Path, model: Any, *, name: str) -> list[Row]:
    """One row for each sound; none where neither a processor nor the config says the shape."""
    if (extractor := _loaded(AutoFeatureExtractor, folder)) is not None:
        rate = int(getattr(extractor, "sampling_rate", RATE))
        shown = [sound(n, samples=int(rate * SECONDS)) for n in range(SOUNDS)]
        made = [extractor(wave, sampling_rate=rate, return_tensors="pt") for wave in shown]
        return [{name: found[name]} for found in made]
    if name == "input_values":
        waves = [torch.from_numpy(sound(n)) for n in range(SOUNDS)]
        return [{name: ((wave - wave.mean()) / wave.std())[None]} for wave in waves]
    bins, frames = (getattr(model.config, key, None) for key in ("num_mel_bins", "max_source_positions"))
    if bins is None or frames is None:
        return []
    spectra = [picture(n, height=bins, width=2 * frames, channels=1)[..., 0] for n in range(SOUNDS)]
    return [{name: torch.from_numpy(2 * spectrum - 1).float()[None]} for spectrum in spectra]


def _for_decoder(row: Row, model: Any, texts: list[Tensor]) -> Row:
    """With what a decoder is to go on from."""
    if not getattr(model.config, "is_encoder_decoder", False) or "decoder_input_ids" not in _takes(model):
        return row
    start = getattr(model.config, "decoder_start_token_id", None) or 0
    said = texts[0][:1] if texts else torch.zeros((1, 0), dtype=torch.long)
    ids = torch.cat([torch.full((1, 1), start), said], dim=1)
    longest = getattr(model.config, "max_target_positions", None) or ids.shape[1]
    return row | {"decoder_input_ids": ids[:, :longest]}


def _side_by_side(folder: Path, model: Any, texts: list[Tensor]) -> list[Row]:
    """Pictures and captions that are compared with each other, all in one batch: a score for each pair.

    The captions are equally long and end as texts do: that is where their features are taken from.
    """
    if not hasattr(model.config, "vision_config"):
        return []
    pixels = torch.cat([row["pixel_values"] for row in _pictures(folder, model.config.vision_config)])
    captions = [text[row : row + 1] for text in texts for row in range(len(text))]
    length = min(ids.shape[1] for ids in captions)
    ids = torch.cat([ids[:, :length] for ids in captions])
    end = getattr(model.config.get_text_config(), "eos_token_id", None)
    if isinstance(end, int):
        ids[:, -1] = end
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}]


def _processed(folder: Path) -> Iterator[Row]:
    """A picture and a question through the model's own processor."""
    processor = _loaded(AutoProcessor, folder)
    token = getattr(processor, "image_token", None)
    if token is None:
        return
    shown = (255 * picture(0, height=SIDE, width=SIDE)).astype(np.uint8)
    try:
        made = processor(text=[f"{token}\nWhat is in this picture?"], images=[shown], return_tensors="pt")
    except Exception:  # noqa: BLE001  # processors raise what they like; the shapes of the config are tried next
        return
    yield {name: value for name, value in made.items() if isinstance(value, Tensor)}


def _placed(model: Any, text: Tensor) -> Iterator[Row]:
    """A picture in the shapes that models take, and the text with as many places for it as it has features."""
    for seen in _seen(model):
        if (count := _places(model, seen)) is not None:
            yield _with_places(model, text, count=count) | seen


def _places(model: Any, seen: Row) -> int | None:
    """How many places in a text the picture takes; None where the model does not take it in this shape."""
    try:
        with torch.no_grad():
            features = model.get_image_features(**seen)
        found = getattr(features, "pooler_output", None)
        return _count(getattr(features, "last_hidden_state", features) if found is None else found)
    except Exception:  # noqa: BLE001  # it was a guess, and models raise what they like over a wrong one
        return None


def _seen(model: Any) -> Iterator[Row]:
    """The same picture as one tensor, as patches with their grid, as a list of parts with its size."""
    vision = getattr(model.config, "vision_config", model.config)
    takes = _takes(model)
    if "image_grid_thw" in takes:
        depth = int(getattr(vision, "temporal_patch_size", 2))
        channels: int = getattr(vision, "in_channels", None) or vision.in_chans
        side = GRID * vision.patch_size
        shown = torch.from_numpy(2 * picture(0, height=side, width=side, channels=channels) - 1).float()
        patches = shown.reshape(GRID, vision.patch_size, GRID, vision.patch_size, channels)
        flat = patches.permute(0, 2, 4, 1, 3).reshape(GRID * GRID, channels, 1, -1)
        grid = torch.tensor([[1, GRID, GRID]])
        yield {
            "pixel_values": flat.expand(-1, -1, depth, -1).reshape(GRID * GRID, -1),
            "image_grid_thw": grid,
        }
        return
    pixels = _pixels(0, vision)
    sizes = torch.tensor([pixels.shape[-2:]])
    yield {"pixel_values": pixels}
    yield {"pixel_values": pixels, "image_sizes": sizes}
    for tiles in (2, 3):  # the whole picture and its parts
        yield {"pixel_values": pixels[None].expand(1, tiles, -1, -1, -1).contiguous(), "image_sizes": sizes}
    yield {"pixel_values": pixels[None]}


def _count(features: Any) -> int:
    """How many places in the text the features take: all dimensions but the last."""
    if isinstance(features, (list, tuple)):
        return sum(_count(part) for part in features)
    return int(features.numel() // features.shape[-1])


def _with_places(model: Any, text: Tensor, *, count: int) -> Row:
    config, first = model.config, text[:1]
    token = _image_token(config) or 0
    places = torch.full((1, count), token, dtype=torch.long)
    ends = [getattr(config, f"vision_{kind}_token_id", None) for kind in ("start", "end")]
    before, after = ([torch.tensor([[end]])] if isinstance(end, int) else [] for end in ends)
    ids = torch.cat([first[:, :1], *before, places, *after, first[:, 1:]], dim=1)
    row = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in _takes(model):
        row["mm_token_type_ids"] = ids.eq(token).int()
    return row


def _is_answered(model: Any, row: Row) -> bool:
    try:
        with torch.no_grad():
            model(**{name: value.clone() for name, value in row.items()})
    except Exception:  # noqa: BLE001  # the same
        return False
    return True


def _image_token(config: Any) -> int | None:
    found = getattr(config, "image_token_id", None)
    found = getattr(config, "image_token_index", None) if found is None else found
    return found if isinstance(found, int) else None


def _takes(model: Any) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


def _loaded(kind: Any, folder: Path) -> Any:
    """The processor that the folder describes; None without one, or one that cannot be had here."""
    if not any((folder / name).is_file() for name in PROCESSORS):
        return None
    try:
        return kind.from_pretrained(folder, **LOCAL)
    except Exception:  # noqa: BLE001  # another kind's config, or a library that is not installed: shapes will do
        return None
