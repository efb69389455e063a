"""Rounding is torch's, bit for bit, and once also from float64; rows are read as they lie on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bot.weights import floats
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from bot.weights.rows import RowReader

KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ODD = [
    0.0,
    -0.0,
    float("inf"),
    float("-inf"),
    3.3895e38,
    -3.4e38,
    65519.9,
    65520.0,
    6e-8,
    1e-45,
    1.00390625,
    1.01171875,
]


@pytest.fixture(scope="module")
def numbers() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    powers = torch.randint(-40, 38, (200_000,), generator=generator).float()
    return torch.cat([torch.randn(200_000, generator=generator) * 10**powers, torch.tensor(ODD)])


@pytest.mark.parametrize("dtype", KINDS)
def test_a_float32_is_rounded_as_torch_rounds_it(numbers, dtype):
    expected = numbers.to(KINDS[dtype])
    got = floats.narrow(numbers.numpy(), dtype)
    assert got.tobytes() == expected.view(torch.uint8).numpy().tobytes()
    assert np.array_equal(floats.widen(got, dtype), expected.float().numpy())


@pytest.mark.parametrize("dtype", KINDS)
def test_nan_stays_nan_whatever_its_bits(dtype):
    every = np.array([0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF, 0xFFC00000], dtype=np.uint32).view(np.float32)
    assert np.isnan(floats.widen(floats.narrow(every, dtype), dtype)).all()


def test_a_float64_is_rounded_once():
    tie = 1 + 2.0**-8  # between two neighbours of bfloat16
    values = np.array(
        [tie, tie * (1 + 2.0**-40), tie * (1 - 2.0**-40), -tie * (1 + 2.0**-40), 1 + 3 * 2.0**-8]
    )
    got = floats.widen(floats.narrow(values, "BF16"), "BF16")
    assert got.tolist() == [1, 1 + 2.0**-7, 1, -1 - 2.0**-7, 1 + 2.0**-6]


@pytest.mark.parametrize("dtype", KINDS)
def test_rows_are_read_as_they_lie_on_disk(tmp_path, dtype):
    tensor = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(1)).to(KINDS[dtype])
    save_file({"a": torch.ones(5), "w": tensor, "x": torch.zeros(())}, tmp_path / "model.safetensors")
    with RowReader(tmp_path, layout=read_layout(LocalFiles(tmp_path))) as reader:
        assert (
            reader.rows("w", 2, 5).tobytes() == tensor[2:5].contiguous().view(torch.uint8).numpy().tobytes()
        )
        assert reader.rows("w").shape == (7, 6)
        assert reader.rows("x").shape == (1, 1)
        assert reader.rows("w", 7).shape == (0, 6)


def test_a_file_that_has_shrunk_is_an_error(tmp_path):
    save_file({"w": torch.ones(64, 64)}, tmp_path / "model.safetensors")
    layout = read_layout(LocalFiles(tmp_path))
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with RowReader(tmp_path, layout=layout) as reader, pytest.raises(OSError, match="ended early"):
        reader.rows("w")
