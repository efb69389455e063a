"""The kernels that merge by rows: each against float64, also where numbers leave their dtype."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bot.errors import RefusedError
from bot.merge.kernels import DeviceRowMerger
from bot.merge.rounding import Bfloat16Desk
from bot.merge.rows import RowMerger
from bot.records import Binding
from bot.weights.files import LocalFiles
from bot.weights.floats import narrow, widen
from bot.weights.layout import read_layout
from bot.weights.rows import RowReader

KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = ("m.lora_A.weight", "m.lora_B.weight", "m.lora_magnitude_vector")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


def merger(kind: str, *, reader: RowReader, adapter: dict[str, torch.Tensor]) -> RowMerger | DeviceRowMerger:
    def read(name: str) -> np.ndarray:
        return adapter[name].numpy()

    if kind == "rows":
        return RowMerger(reader=reader, adapter=read)
    return DeviceRowMerger(reader=reader, adapter=read, device=kind)


@pytest.mark.parametrize("kind", ["rows", *DEVICES])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("stored", KINDS)
@pytest.mark.parametrize("dtype", KINDS)
def test_a_kernel_rounds_once(tmp_path: Path, kind: str, dora: bool, stored: str, dtype: str) -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(301, 700, generator=random).to(KINDS[stored])
    adapter = {
        n: torch.randn(s, generator=random) for n, s in zip(NAMES, [(5, 700), (301, 5), (301,)], strict=True)
    }
    save_file({"w": weight}, tmp_path / "model.safetensors")
    binding = Binding(
        tensor="w", source="w", parameter="w", method="dora" if dora else "lora", dtype=stored,
        adapter=NAMES if dora else NAMES[:2], shape=(301, 700), scale=0.3,
    )  # fmt: skip
    a, b, magnitude = (adapter[n].double() for n in NAMES)
    expected = weight.double() + 0.3 * b @ a
    if dora:
        expected *= (magnitude / torch.linalg.vector_norm(expected, dim=1)).unsqueeze(1)
    with RowReader(tmp_path, layout=read_layout(LocalFiles(tmp_path))) as reader:
        found = merger(kind, reader=reader, adapter=adapter)
        parts = [
            (part.first, part.last, widen(part.data.copy(), dtype))
            for piece in found.pieces(binding, dtype=dtype)
            for part in piece.parts()
        ]
    assert [p[0] for p in parts] == [0, *(p[1] for p in parts[:-1])]
    assert parts[-1][1] == 301
    assert found.changed
    merged = torch.from_numpy(np.concatenate([p[2] for p in parts])).double()
    digits = {"F32": 23, "F16": 10, "BF16": 7}[dtype]
    unit = 2.0 ** (torch.floor(torch.log2(expected.abs())) - digits)
    assert ((merged - expected).abs() <= 0.5 * unit + 2e-5).all()
    if dtype == "BF16":  # almost all are the float64's own rounding
        assert (merged != expected.to(torch.bfloat16).double()).float().mean() < 1e-3


def round_on(desk: Bfloat16Desk, values: np.ndarray) -> np.ndarray:
    weight, _ = desk.widen(np.zeros(values.shape, np.uint16))
    weight[...] = values
    out = np.empty(values.shape, np.uint16)
    desk.rounded(name="w", out=out)
    return out


def test_a_desk_rounds_to_even_and_refuses_what_is_too_large() -> None:
    bits = np.arange(0x3F800000, 0x3F800000 + 2**18, 2**7, dtype=np.uint32).reshape(16, -1)
    values, desk = bits.view(np.float32), Bfloat16Desk()
    assert np.array_equal(round_on(desk, values), narrow(values, "BF16"))
    for value, code in ((3.4e38, "overflow"), (np.inf, "result-not-finite"), (np.nan, "result-not-finite")):
        values[3, 5] = value
        with pytest.raises(RefusedError) as refusal:
            round_on(desk, values)
        assert refusal.value.code == code
    values[3, 5] = 3.3e38  # large, and it fits
    assert np.array_equal(round_on(desk, values), narrow(values, "BF16"))
