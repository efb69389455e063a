"""Writes the random base and its adapter, tensor by tensor: `python -m benchmarks.inputs FOLDER SHAPE ADAPTER`.

A folder gets its name when it is complete, so one that is there is used as it is. The same seed gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import save_file

from benchmarks.places import adapter_folder, base_folder
from benchmarks.shapes import ADAPTERS, ALPHA, RANK, SHAPES, Adapter, Shape
from bot.weights.header import encode

SPREAD = 0.02  # of the base's weights
CHUNK = 2**22  # elements that are made and written at a time


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing half-written stays
    root, shape, adapter = Path(sys.argv[1]), SHAPES[sys.argv[2]], ADAPTERS[sys.argv[3]]
    base, target = base_folder(root, shape), adapter_folder(root, shape, adapter)
    if not base.exists():
        with _complete(base) as folder:
            write_base(shape, folder)
    if not target.exists():
        with _complete(target) as folder:
            write_adapter(adapter, shape, folder, base=base)


@contextmanager
def _complete(folder: Path) -> Iterator[Path]:
    """A folder beside, renamed at the end."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_base(shape: Shape, folder: Path) -> None:
    """A checkpoint of that shape in bfloat16, with no tokenizer."""
    shards, sizes = shape.shards(), shape.tensors()
    for file, names in shards.items():
        header = encode([(n, "BF16", sizes[n]) for n in names], metadata={"format": "pt"})
        with (folder / file).open("wb") as stream:
            stream.write(len(header.raw).to_bytes(8, "little") + header.raw)
            for name in names:
                _write_random(stream, name, count=math.prod(sizes[name]))
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": shape.bytes()},
            "weight_map": {n: f for f in shards for n in shards[f]},
        }
        _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", shape.config())
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "do_sample": True, "eos_token_id": 2})


def _write_random(stream: BinaryIO, name: str, *, count: int) -> None:
    generator = _generator(name)
    mean, spread = (1.0, 0.1) if "norm" in name else (0.0, SPREAD)
    for first in range(0, count, CHUNK):
        values = torch.randn(min(CHUNK, count - first), generator=generator).mul_(spread).add_(mean)
        stream.write(values.bfloat16().view(torch.uint8).numpy().data)


def write_adapter(adapter: Adapter, shape: Shape, folder: Path, *, base: Path) -> None:
    """An adapter in float32, as PEFT names and saves it, with a delta of about a tenth of the weights."""
    from peft import LoraConfig

    tensors: dict[str, torch.Tensor] = {}
    for module, (rows, columns) in adapter.modules(shape):
        name = f"base_model.model.{module}"
        draw = _generator(module)
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=draw) / math.sqrt(columns)
        tensors[f"{name}.lora_B.weight"] = (
            torch.randn(rows, RANK, generator=draw) * SPREAD * columns**0.5 / 60
        )
        if adapter.dora:
            wobble = torch.randn(rows, generator=draw).mul_(0.02).add_(1)
            tensors[f"{name}.lora_magnitude_vector"] = wobble * SPREAD * math.sqrt(columns)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(adapter.targets),
        use_dora=adapter.dora,
        init_lora_weights=adapter.init,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
        inference_mode=True,
    )
    config.save_pretrained(str(folder))


def _generator(name: str) -> torch.Generator:
    """Random numbers that depend on the name alone (`hash` differs from run to run)."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
