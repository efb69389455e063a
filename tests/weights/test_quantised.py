"""Dequantising, bit for bit as bitsandbytes and transformers do it; recognising, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from bitsandbytes.backends.utils import _get_4bit_code
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from bot.errors import InputError, RefusedError
from bot.progress import Silent
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from bot.weights.quantised.logical import Quantised, read_quantised
from bot.weights.quantised.write import write_dequantised

BNB = {"quant_method": "bitsandbytes"}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def read(folder: Path, settings: dict[str, Any] | None, **config: Any) -> Quantised | None:
    config = {"model_type": "llama", "dtype": "bfloat16", **config}
    if settings is not None:
        config["quantization_config"] = settings
    return read_quantised(LocalFiles(folder), config=config, layout=read_layout(LocalFiles(folder)))


def dequantise(
    folder: Path, tensors: dict[str, Tensor], settings: dict[str, Any], **config: Any
) -> dict[str, Tensor]:
    """The tensors of a model with these, after a detour through the bot's plain folder."""
    stored, plain = folder / "stored", folder / "plain"
    stored.mkdir()
    plain.mkdir()
    save_file(tensors, stored / "model.safetensors", metadata={"format": "pt"})
    found = read(stored, settings, **config)
    assert found is not None
    write_dequantised(plain, quantised=found, source=stored, beside=[], progress=Silent())
    assert "quantization_config" not in json.loads((plain / "config.json").read_text())
    return load_file(plain / "model.safetensors")


def bnb4(
    weight: Tensor, *, codes: str, double: bool, block: int = 64, storage: torch.dtype = torch.uint8
) -> Any:
    """What bitsandbytes stores for a weight, and its state."""
    packed, state = functional.quantize_4bit(
        weight, blocksize=block, quant_type=codes, compress_statistics=double, quant_storage=storage
    )
    tensors = {f"a.weight.{name}": value for name, value in state.as_dict(packed=True).items()}
    return {"a.weight": packed, **tensors}, state


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("codes", ["nf4", "fp4"])
@pytest.mark.parametrize(
    ("shape", "block", "dtype"),
    [
        ((300, 192), 64, torch.bfloat16),
        (
            (96, 32),
            64,
            torch.bfloat16,
        ),  # blocks run over the ends of rows, where the library's CPU kernel is wrong
        ((5, 33), 64, torch.float16),
        ((1100, 1024), 128, torch.float32),
    ],
)
def test_four_bits_are_the_librarys_by_the_bit(
    shape: tuple[int, int], block: int, dtype: torch.dtype, codes: str, double: bool, tmp_path: Path
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensors, state = bnb4(weight, codes=codes, double=double, block=block)
    found = dequantise(tmp_path, tensors, BNB)["a.weight"]
    largest = state.absmax
    if double:
        largest = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    table = _get_4bit_code(codes, "cpu")
    with torch.compiler.set_stance("force_eager"):
        want = _dequantize_4bit_compute(tensors["a.weight"].reshape(-1), largest, table, block, shape, dtype)
    assert torch.equal(found, want)
    if shape[1] % block == 0:
        assert torch.equal(found, functional.dequantize_4bit(tensors["a.weight"], state))
    assert (found - weight).abs().max() < weight.abs().max() / 4


def test_codes_may_be_stored_in_wider_words(tmp_path: Path) -> None:
    weight = torch.randn(64, 64).bfloat16()
    tensors, state = bnb4(weight, codes="nf4", double=False, storage=torch.bfloat16)
    assert tensors["a.weight"].dtype == torch.bfloat16
    found = dequantise(tmp_path, tensors, BNB)["a.weight"]
    assert torch.equal(found, functional.dequantize_4bit(tensors["a.weight"], state))


def test_eight_bits_are_the_librarys_by_the_bit(tmp_path: Path) -> None:
    weight = torch.randn(1100, 1024).half()
    codes, largest, _ = functional.int8_vectorwise_quant(weight)
    tensors = {"a.weight": codes, "a.SCB": largest, "a.weight_format": torch.tensor(0, dtype=torch.uint8)}
    found = dequantise(tmp_path, tensors, BNB, dtype="float32")["a.weight"]
    assert torch.equal(found, functional.int8_vectorwise_dequant(codes, largest))


@pytest.mark.parametrize("shape", [(256, 384), (2, 256, 128), (1280, 1024)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fp8_in_blocks_is_transformers_by_the_bit(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    codes = (torch.randn(shape) * 100).to(torch.float8_e4m3fn)
    scale = torch.rand(*shape[:-2], shape[-2] // 128, shape[-1] // 128) / 50
    found = dequantise(tmp_path, {"a.weight": codes, "a.weight_scale_inv": scale}, FP8, dtype=dtype)[
        "a.weight"
    ]
    assert torch.equal(found, Fp8Dequantize(None)._dequantize_one(codes, scale, getattr(torch, dtype)))


def test_the_last_block_of_fp8_may_be_cut(tmp_path: Path) -> None:
    """DeepSeek-V3 has such a one, 576 rows in blocks of 128; transformers 5.23 cannot dequantise it."""
    codes, scale = (torch.randn(576, 200) * 100).to(torch.float8_e4m3fn), torch.rand(5, 2)
    found = dequantise(tmp_path, {"a.weight": codes, "a.weight_scale_inv": scale}, FP8)["a.weight"]
    grid = torch.kron(scale.double(), torch.ones(128, 128, dtype=torch.float64))[:576, :200]
    assert torch.equal(found, (codes.double() * grid).bfloat16())


def test_compressed_tensors_may_have_blocks_too(tmp_path: Path) -> None:
    codes, scale = (torch.randn(256, 128) * 100).to(torch.float8_e4m3fn), torch.rand(2, 1)
    group = {"weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"g": group},
    }
    found = dequantise(tmp_path, {"a.weight": codes, "a.weight_scale": scale}, settings)["a.weight"]
    assert torch.equal(found, Fp8Dequantize(None)._dequantize_one(codes, scale, torch.bfloat16))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mxfp4_is_transformers_by_the_bit(dtype: str, tmp_path: Path) -> None:
    codes = torch.arange(256, dtype=torch.uint8).repeat(3 * 48 * 2 * 16 // 256).reshape(3, 48, 2, 16)
    scales = torch.arange(3 * 48 * 2).remainder(250).add(1).to(torch.uint8).reshape(3, 48, 2)
    tensors = {"e.down_proj_blocks": codes, "e.down_proj_scales": scales}
    found = dequantise(tmp_path, tensors, {"quant_method": "mxfp4"}, dtype=dtype)["e.down_proj"]
    assert torch.equal(found, convert_moe_packed_tensors(codes, scales, dtype=getattr(torch, dtype)))


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    codes = torch.full((2, 2), 448.0).to(torch.float8_e4m3fn)
    tensors = {"a.weight": codes, "a.weight_scale_inv": torch.full((1, 1), 1000.0)}
    with pytest.raises(RefusedError) as refusal:
        dequantise(tmp_path, tensors, FP8, dtype="float16")
    assert refusal.value.code == "quantization-not-finite"


def peak_anonymous(work: Callable[[], None]) -> int:
    """How many bytes of anonymous memory the work takes at its worst, beside what was there."""
    done, seen = threading.Event(), [anonymous()]

    def watch() -> None:
        while not done.is_set():
            seen.append(anonymous())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return max(seen) - seen[0]


def anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


def test_memory_is_that_of_a_block(tmp_path: Path) -> None:
    """Three weights of 64 MiB in float32: neither the model nor a weight is held."""
    stored, plain = tmp_path / "stored", tmp_path / "plain"
    stored.mkdir()
    plain.mkdir()
    count = 2**24
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4096, 4096]}
    tensors = {}
    for name in "abc":
        blob = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
        tensors |= {
            f"{name}.weight": torch.full((count // 2, 1), 0x5A, dtype=torch.uint8),
            f"{name}.weight.absmax": torch.ones(count // 64),
            f"{name}.weight.quant_map": _get_4bit_code("nf4", "cpu").clone(),
            f"{name}.weight.quant_state.bitsandbytes__nf4": blob,
        }
    save_file(tensors, stored / "model.safetensors", metadata={"format": "pt"})
    del tensors
    found = read(stored, BNB)
    assert found is not None
    taken = peak_anonymous(
        lambda: write_dequantised(plain, quantised=found, source=stored, beside=[], progress=Silent())
    )
    assert (plain / "model.safetensors").stat().st_size > 3 * 2 * count
    assert taken < 48 * 2**20


PACKED = {
    "gptq": {"m.q_proj.qweight": torch.zeros(4, 8, dtype=torch.int32), "m.q_proj.scales": torch.ones(1, 8)},
    "bitsandbytes": {"m.q_proj.weight": torch.zeros(32, 1, dtype=torch.uint8)},
    "int8": {"m.q_proj.weight": torch.zeros(8, 8, dtype=torch.int8), "m.q_proj.SCB": torch.ones(8)},
    "fp8": {"m.q_proj.weight": torch.zeros(8, 8).to(torch.float8_e4m3fn)},
    "mxfp4": {
        "m.down_proj_blocks": torch.zeros(1, 8, 1, 16, dtype=torch.uint8),
        "m.down_proj_scales": torch.zeros(1, 8, 1, dtype=torch.uint8),
    },
    "compressed": {"m.q_proj.weight_packed": torch.zeros(8, 1, dtype=torch.int32)},
}


@pytest.fixture(params=PACKED)
def packed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_file({"norm.weight": torch.ones(4), **PACKED[request.param]}, tmp_path / "model.safetensors")
    return tmp_path


def test_packed_weights_without_a_word_in_the_config_are_refused(packed: Path) -> None:
    with pytest.raises(RefusedError) as refusal:
        read(packed, None)
    assert refusal.value.code == "base-quantized"
    assert "--base" in refusal.value.advice


@pytest.mark.parametrize("method", ["gptq", "awq", "quanto", "hqq", "torchao", "modelopt"])
def test_other_methods_are_refused_by_name(method: str, packed: Path) -> None:
    with pytest.raises(RefusedError, match=method) as refusal:
        read(packed, {"quant_method": method})
    assert refusal.value.code == "base-quantized"
    assert "--base" in refusal.value.advice


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "pack-quantized"},
        {"format": "float-quantized", "transform_config": {"config_groups": {"u": {}}}},
        {"format": "float-quantized", "sparsity_config": {"format": "sparse-24-bitmask"}},
        {"format": "float-quantized", "config_groups": {"g": {"format": "nvfp4-pack-quantized"}}},
    ],
)
def test_what_compressed_tensors_does_beside_scales_is_refused(settings: dict, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.zeros(8, 8).to(torch.float8_e4m3fn), "a.weight_scale": torch.ones(8, 1)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(RefusedError, match="compressed-tensors"):
        read(tmp_path, {"quant_method": "compressed-tensors", **settings})


SQUARE = torch.zeros(8, 8).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a.weight": SQUARE}, "no scale"),
        ({"a.weight": SQUARE, "a.weight_scale": torch.ones(8)}, "the shape"),  # rows or columns?
        (
            {
                "a.weight": SQUARE,
                "a.weight_scale": torch.ones(8, 1),
                "a.weight_zero_point": torch.zeros(8, 1),
            },
            "zero",
        ),
        ({"a.weight": SQUARE, "a.weight_scale": torch.ones(8, 4)}, "the shape"),
        ({"a.weight": torch.ones(8, 8)}, "none of its tensors"),
        (
            {
                "a.weight": SQUARE,
                "a.weight_scale": torch.ones(8, 1),
                "b.qweight": torch.ones(2, 2, dtype=torch.int32),
            },
            "qweight",
        ),
    ],
)
def test_fp8_whose_scales_do_not_tell_for_sure_is_refused(
    tensors: dict[str, Tensor], reason: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(RefusedError, match=reason) as refusal:
        read(tmp_path, {"quant_method": "fbgemm_fp8"})
    assert refusal.value.code == "base-quantized"


def test_a_layer_that_bitsandbytes_turned_over_is_refused(tmp_path: Path) -> None:
    """It stores GPT-2's Conv1D weights transposed: a square one would be merged the wrong way round."""
    tensors, _ = bnb4(torch.randn(64, 64), codes="nf4", double=False)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(RefusedError, match="turned over"):
        read(tmp_path, BNB, model_type="gpt2")


@pytest.mark.parametrize(
    "state",
    [
        b"{", b"[]", b"{}",
        b'{"quant_type": "nf4", "blocksize": 0, "dtype": "bfloat16", "shape": [8, 8]}',
        b'{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [-8, 8]}',
        b'{"quant_type": "fp4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 8]}',
        b'{"quant_type": "nf4", "blocksize": 64, "dtype": "int8", "shape": [8, 8]}',
        b'{"quant_type": "nf4", "blocksize": [], "dtype": "bfloat16", "shape": [8, 8]}',
    ],
)  # fmt: skip
def test_a_broken_state_is_bad_input(state: bytes, tmp_path: Path) -> None:
    tensors, _ = bnb4(torch.randn(8, 8), codes="nf4", double=False)
    tensors["a.weight.quant_state.bitsandbytes__nf4"] = torch.frombuffer(bytearray(state), dtype=torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as error:
        read(tmp_path, BNB)
    assert error.value.code == "quantization-broken"


@pytest.mark.parametrize("change", ["shape", "absmax", "quant_map"])
def test_a_state_that_does_not_fit_its_weight_is_refused(change: str, tmp_path: Path) -> None:
    tensors, state = bnb4(torch.randn(8, 16), codes="nf4", double=False)
    if change == "shape":
        state.shape = torch.Size((8, 32))
        tensors |= {f"a.weight.{n}": t for n, t in state.as_dict(packed=True).items()}
    else:
        tensors[f"a.weight.{change}"] = torch.ones(5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(RefusedError, match=r"a\.weight"):
        read(tmp_path, BNB)


def test_a_table_of_other_codes_is_refused(tmp_path: Path) -> None:
    tensors, _ = bnb4(torch.randn(8, 16), codes="nf4", double=False)
    tensors["a.weight.quant_map"] = torch.linspace(-1, 1, 16)
    with pytest.raises(RefusedError) as refusal:
        dequantise(tmp_path, tensors, BNB)
    assert refusal.value.code == "quantization-unknown"
