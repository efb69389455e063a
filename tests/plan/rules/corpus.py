"""Configs to look at: those that PEFT writes today for every type, some from the wild, and real ones where they lie."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.tiny.adapters import LORA_VARIANTS, TUNERS, make_config

HERE = Path(__file__).parents[3]
PLACES = (HERE / "shared" / "corpus", HERE.parent / "shared" / "corpus")
FOLDER = next((place for place in PLACES if place.is_dir()), None)

#: As older releases of PEFT, and tools around it, have written them.
WILD: dict[str, dict[str, Any]] = {
    "peft 0.2": {
        "base_model_name_or_path": "org/llama-7b-hf",
        "bias": "none",
        "enable_lora": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "merge_weights": False,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 8,
        "target_modules": ["q_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    },
    "a regular expression, and a base in 4 bit": {
        "auto_mapping": {"base_model_class": "Gemma3Model", "parent_library": "transformers.models.gemma3"},
        "base_model_name_or_path": "org/gemma-4b-bnb-4bit",
        "lora_alpha": 32,
        "peft_type": "LORA",
        "r": 16,
        "rank_pattern": {},
        "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj))|(?:\bmodel\.layers\.\d+)",
        "use_rslora": True,
    },
    "classification": {
        "base_model_name_or_path": "org/bert",
        "lora_alpha": 32,
        "modules_to_save": ["classifier", "score"],
        "peft_type": "LORA",
        "r": 8,
        "target_modules": ["query", "value"],
        "task_type": "SEQ_CLS",
    },
    "by hand": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["c_attn"]},
}


@cache
def written() -> dict[str, bytes]:
    """The bytes that PEFT's own save_pretrained writes, by a name for the config."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in {**TUNERS, **LORA_VARIANTS}.items():
            config = make_config(
                {"peft_type": name.partition(".")[0], **settings} if name in TUNERS else settings
            )
            config.save_pretrained(folder)
            found[name] = (Path(folder) / "adapter_config.json").read_bytes()
    return found


def real() -> dict[str, bytes]:
    """The real files, by name; empty where they are not."""
    return (
        {}
        if FOLDER is None
        else {p.relative_to(FOLDER).as_posix(): p.read_bytes() for p in FOLDER.rglob("*.json")}
    )


@cache
def configs() -> dict[str, dict[str, Any]]:
    """Every config of the three kinds that is a JSON object."""
    found = dict(WILD)
    for name, data in {**written(), **real()}.items():
        try:
            config = json.loads(data)
        except ValueError:
            continue
        found |= {name: config} if isinstance(config, dict) else {}
    return found
