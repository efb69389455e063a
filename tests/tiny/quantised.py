"""Tiny quantised bases: by bitsandbytes itself, or by hand as the formats' specifications say; and what they stand for.

What a base stands for is transformers' own word: it loads the folder and dequantises it. None of the bot's code.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BitsAndBytesConfig

from tests.tiny.architectures import ARCHITECTURES
from tests.tiny.models import build, model_class
from tests.tiny.tokenizers import CHAT_TEMPLATE, train_tokenizer

WEIGHTS = "model.safetensors"
BITSANDBYTES: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4_double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "fp4_double": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}
FP8_MAX = 448.0
LINEAR = ("_proj.weight",)
GROUP = {"targets": ["Linear"], "input_activations": None, "output_activations": None}


def save_wide(folder: Path, architecture: str, *, dtype: str = "bfloat16") -> Path:
    """A base whose rows are whole blocks of 64: others bitsandbytes 0.50 dequantises wrongly on a CPU with AVX-512."""
    entry = ARCHITECTURES[architecture]
    sizes = entry.sizes | {"hidden_size": 64, "intermediate_size": 128}
    build(replace(entry, sizes=sizes)).to(getattr(torch, dtype)).save_pretrained(folder)
    train_tokenizer(folder, kind=str(entry.tokenizer), chat_template=CHAT_TEMPLATE)
    return folder


def save_bitsandbytes(folder: Path, base: Path, kind: str, *, shards: str | None = None) -> Path:
    """The base, quantised and saved by transformers and bitsandbytes."""
    config = BitsAndBytesConfig(**BITSANDBYTES[kind])
    model = model_class(base).from_pretrained(base, quantization_config=config, dtype="auto")
    model.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    return _beside(folder, base)


def save_fp8(folder: Path, base: Path, *, block: int = 16, scale_dtype: torch.dtype = torch.float32) -> Path:
    """The base with its linear layers in FP8, one scale for each square block, as DeepSeek-V3 is stored."""
    tensors = {}
    for name, weight in load_file(base / WEIGHTS).items():
        tensors[name] = weight
        if name.endswith(LINEAR):
            rows, columns = weight.shape
            tiles = weight.float().reshape(rows // block, block, columns // block, block)
            scale = (
                (tiles.abs().amax((1, 3)) / FP8_MAX).log2().ceil().exp2()
            )  # a power of two fits every dtype
            if scale_dtype is torch.float32:
                scale = scale * 1.1
            codes = (tiles / scale[:, None, :, None]).reshape(rows, columns)
            tensors[name] = codes.clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.to(scale_dtype)
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [block, block]}
    return _save(folder, base, tensors, settings)


def save_compressed(folder: Path, base: Path, *, strategy: str, bits: str = "float") -> Path:
    """The base with its linear layers in FP8 or 8-bit integers, as compressed-tensors stores them."""
    tensors = {}
    for name, weight in load_file(base / WEIGHTS).items():
        tensors[name] = weight
        if name.endswith(LINEAR):
            top = FP8_MAX if bits == "float" else 127.0
            wide = weight.float().abs()
            largest = wide.amax(1, keepdim=True) if strategy == "channel" else wide.max().reshape(1)
            scale = (largest / top).to(weight.dtype)
            codes = (weight.float() / scale.float()).clamp(-top, top)
            tensors[name] = codes.to(torch.float8_e4m3fn) if bits == "float" else codes.round().to(torch.int8)
            tensors[f"{name}_scale"] = scale
            if strategy == "tensor":
                tensors[f"{name.removesuffix('weight')}input_scale"] = torch.ones(1)
    form = f"{bits}-quantized"
    scheme = {"num_bits": 8, "type": bits, "symmetric": True, "strategy": strategy}
    settings = {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": GROUP | {"weights": scheme, "format": form}},
    }
    return _save(folder, base, tensors, settings)


def save_fbgemm(folder: Path, base: Path) -> Path:
    """The base with its linear layers in FP8, one scale for each row, as Meta's FP8 Llamas are stored."""
    tensors = load_file(save_compressed(folder, base, strategy="channel") / WEIGHTS)
    shutil.rmtree(folder)
    settings = {
        "quant_method": "fbgemm_fp8",
        "activation_scale_ub": 1200.0,
        "modules_to_not_convert": ["lm_head"],
    }
    ready = {n: t.float() if n.endswith("_scale") else t for n, t in tensors.items()}
    return _save(folder, base, ready, settings)


def save_mxfp4(folder: Path, base: Path) -> Path:
    """A gpt-oss whose experts are random MXFP4 codes (a pair of each byte, 32 to a scale)."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, weight in load_file(base / WEIGHTS).items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = weight
            continue
        experts, columns, rows = weight.shape
        shape = (experts, rows, columns // 32, 16)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(121, 126, shape[:-1], generator=generator).to(torch.uint8)
    settings = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["self_attn", "router", "embed_tokens", "lm_head"],
    }
    return _save(folder, base, tensors, settings)


def save_plain(folder: Path, quantised: Path, base: Path) -> Path:
    """The quantised base, loaded and dequantised by transformers, saved as a plain one."""
    dtype = getattr(torch, json.loads((base / "config.json").read_text())["dtype"])
    settings = json.loads((quantised / "config.json").read_text())["quantization_config"]
    options = {}
    if settings["quant_method"] != "bitsandbytes":
        kind = {
            "fp8": "FineGrainedFP8Config",
            "mxfp4": "Mxfp4Config",
            "compressed-tensors": "CompressedTensorsConfig",
        }
        keys = {"dequantize": True}
        options = {"quantization_config": getattr(transformers, kind[settings["quant_method"]])(**keys)}
    model = model_class(base).from_pretrained(quantised, dtype=dtype, **options)
    if settings["quant_method"] == "bitsandbytes":
        model = model.dequantize(dtype=dtype)
    folder.mkdir(parents=True)
    shutil.copyfile(base / "config.json", folder / "config.json")
    wanted = load_file(base / WEIGHTS)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name in wanted}
    assert state.keys() == wanted.keys()
    assert all(value.dtype == dtype for value in state.values())
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    return _beside(folder, base)


def _save(folder: Path, base: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text()) | {"quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config))
    return _beside(folder, base)


def _beside(folder: Path, base: Path) -> Path:
    for path in base.iterdir():
        if not (folder / path.name).exists() and ".safetensors" not in path.name:
            shutil.copyfile(path, folder / path.name)
    return folder
