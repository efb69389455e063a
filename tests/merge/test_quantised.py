"""A merge into the dequantised weights of a quantised base: what transformers makes of it, plus the adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.merge.oracle import compare, float64_weights, read_tensors
from tests.tiny.adapters import LORA_VARIANTS, save_adapter
from tests.tiny.quantised import BITSANDBYTES, save_bitsandbytes, save_compressed, save_fp8, save_mxfp4, save_plain, save_wide

PLAIN = LORA_VARIANTS["plain"]
FORMATS = {
    **{kind: lambda folder, base, kind=kind: save_bitsandbytes(folder, base, kind) for kind in BITSANDBYTES},
    "fp8": save_fp8,
    "fp8_e8m0": lambda folder, base: save_fp8(folder, base, scale_dtype=torch.float8_e8m0fnu),
    "float_channel": lambda folder, base: save_compressed(folder, base, strategy="channel"),
    "float_tensor": lambda folder, base: save_compressed(folder, base, strategy="tensor"),
    "int_channel": lambda folder, base: save_compressed(folder, base, strategy="channel", bits="int"),
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_wide(tmp_path_factory.mktemp("wide") / "base", "llama")


@pytest.fixture
def quantised(tmp_path: Path, wide: Path) -> Callable[..., tuple[Path, Path, Path]]:
    """A quantised base, the same dequantised by transformers, and an adapter that names the quantised one."""

    def make(kind: str, *, config: dict = PLAIN) -> tuple[Path, Path, Path]:
        packed = FORMATS[kind](tmp_path / "quantised", wide)
        plain = save_plain(tmp_path / "plain", packed, wide)
        adapter = save_adapter(
            tmp_path / "adapter", plain, config=config, architecture="llama", base_name=str(packed)
        )
        return packed, plain, adapter

    return make


@pytest.mark.parametrize("kind", FORMATS)
def test_the_merge_is_the_adapter_on_what_transformers_dequantises(
    kind: str, quantised: Callable, merged: Callable
) -> None:
    packed, plain, adapter = quantised(kind)
    out, plan = merged(adapter, quantized_base="dequantize", validation="full")
    exact, before, after = float64_weights(plain, adapter), read_tensors(plain), read_tensors(out)
    assert after.keys() == before.keys()
    assert exact.keys() == {b.tensor for b in plan.bindings}
    for name, tensor in after.items():
        assert tensor.dtype == torch.bfloat16
        if name not in exact:
            assert torch.equal(tensor, before[name]), name
            continue
        unit = torch.exp2(exact[name].abs().clamp(min=2.0**-126).log2().floor() - 7)
        assert ((tensor.double() - exact[name]).abs() <= unit * 0.5 * (1 + 1e-3)).all(), name
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    answers = compare("llama", base=plain, adapter=adapter, out=out, plan=plan)
    assert answers.error < 0.05 * answers.effect
