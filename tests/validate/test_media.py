"""What models are asked: every tiny architecture something, and those with eyes or ears a picture or a sound."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, WhisperFeatureExtractor

from bot.progress import Silent
from bot.records import Check
from bot.request import MergeRequest
from bot.validate.behaviour import check_behaviour
from bot.validate.media import media, picture, sound
from tests.merge.test_architectures import config
from tests.tiny.architectures import ARCHITECTURES
from tests.tiny.models import load

QUICK = ("vit", "clip", "whisper", "wav2vec2", "llava", "qwen2_vl", "qwen3_moe", "mamba")
#: The adapter is on what sees or hears alone: where it shows, a picture or a sound was asked.
SENSES = {
    "vit": ["q_proj"],
    "clip": r".*vision_model.*q_proj",
    "whisper": r".*encoder.*q_proj",
    "wav2vec2": ["q_proj"],
    "llava": r".*vision_tower.*q_proj",
    "qwen2_vl": r".*visual.*qkv",
}
SEEING = {
    "siglip": r".*vision_model.*fc1",
    "swin": r".*\.(query|q_proj)",
    "dinov2": r".*\.(query|q_proj)",
    **dict.fromkeys(("qwen2_5_vl", "qwen3_vl", "qwen3_5"), r".*visual.*qkv"),
    **dict.fromkeys(
        (
            "llava_next",
            "llava_onevision",
            "vipllava",
            "paligemma",
            "gemma3_vl",
            "internvl",
            "aria",
            "mistral3",
        ),
        r".*vision_tower.*(q_proj|query)",
    ),
    "video_llava": r".*image_tower.*q_proj",
    "idefics3": r".*vision_model.*q_proj",
    "llama4": r".*vision_model.*q_proj",
}
#: Asked with text alone, and why.
TEXT_ONLY = {
    "mllama": "its pictures come in tiles with masks of their own, which only its processor makes",
}


@pytest.fixture
def checked(adapter_on: Callable, merged: Callable) -> Callable[..., dict[str, Check]]:
    """Merges an adapter, and gives the checks of answers by name."""

    def check(architecture: str, keys: dict[str, Any]) -> dict[str, Check]:
        base, adapter = adapter_on(architecture, keys)
        out, plan = merged(adapter)
        found, _ = check_behaviour(
            out,
            plan=plan,
            base_folder=base,
            adapter_folder=adapter,
            request=MergeRequest(adapter=""),
            progress=Silent(),
        )
        return {check.name: check for check in found}

    return check


@pytest.mark.parametrize(
    "architecture",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES if n not in SENSES],
)
def test_every_architecture_is_asked(architecture: str, checked: Callable) -> None:
    found = checked(architecture, config(architecture))
    assert {check.verdict for check in found.values()} == {"passed"}, found


@pytest.mark.parametrize(
    "architecture",
    [n if n in {"whisper", "llava"} else pytest.param(n, marks=pytest.mark.slow) for n in [*SENSES, *SEEING]],
)
def test_what_sees_and_hears_is_asked_with_pictures_and_sound(architecture: str, checked: Callable) -> None:
    target = (SENSES | SEEING)[architecture]
    found = checked(architecture, config(architecture, target_modules=target))
    assert {check.verdict for check in found.values()} == {"passed"}, found


def test_every_model_with_eyes_is_accounted_for() -> None:
    seeing = {name for name, entry in ARCHITECTURES.items() if entry.auto == "AutoModelForImageTextToText"}
    assert seeing - SENSES.keys() - SEEING.keys() == TEXT_ONLY.keys()


def test_the_models_own_processor_is_used(base_of: Callable, tmp_path: Path) -> None:
    model = load(base_of("whisper"))
    WhisperFeatureExtractor(feature_size=8, hop_length=500, chunk_length=1).save_pretrained(tmp_path)
    [first, second], instead = media(tmp_path, model=model, texts=[torch.tensor([[5, 6]])])
    assert instead
    assert first["input_features"].shape == (1, 8, 32)
    assert first["decoder_input_ids"].tolist() == [[1, 5, 6]]
    assert not torch.equal(first["input_features"], second["input_features"])
    shaped, _ = media(base_of("whisper"), model=model, texts=[])
    assert shaped[0]["input_features"].shape == (1, 8, 32)
    assert not torch.equal(shaped[0]["input_features"], first["input_features"])


def test_pictures_go_through_the_models_own_processor(base_of: Callable, tmp_path: Path) -> None:
    model = load(base_of("vit"))
    kind = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    means = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0], "do_rescale": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kind | means))
    rows, _ = media(tmp_path, model=model, texts=[])
    assert [row["pixel_values"].shape for row in rows] == [(1, 3, 16, 16)] * 4
    assert rows[0]["pixel_values"].max() > 2  # as the processor was told: pixels, not shares
    rows, _ = media(base_of("vit"), model=model, texts=[])
    assert rows[0]["pixel_values"].abs().max() <= 1


def test_pictures_and_sounds_are_made_up_the_same_each_time() -> None:
    assert (picture(1, height=9, width=7) == picture(1, height=9, width=7)).all()
    assert (picture(1, height=9, width=7) != picture(2, height=9, width=7)).any()
    assert (sound(1, samples=99) == sound(1, samples=99)).all()
    assert picture(1, height=9, width=7).shape == (9, 7, 3)
    assert abs(sound(1)).max() < 1


def test_a_model_that_nothing_is_known_for_is_asked_nothing(base_of: Callable) -> None:
    class Odd:
        main_input_name = "past_values"
        config = AutoConfig.from_pretrained(base_of("llama"))

    assert media(base_of("llama"), model=Odd(), texts=[torch.tensor([[1]])]) == ([], True)
