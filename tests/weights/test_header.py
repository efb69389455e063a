"""The header reader takes exactly what the format allows, and answers everything else with one error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bot.errors import InputError
from bot.weights.files import LocalFiles
from bot.weights.header import Header, encode, header_length, parse
from bot.weights.layout import INDEX, read_header, read_layout

GOOD = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def read(entries: object, *, size: int = 24) -> Header:
    raw = json.dumps(entries).encode()
    return parse(raw, file="x", file_size=8 + len(raw) + size)


def entry(**changes: object) -> dict:
    return {"a": {**GOOD["a"], **changes}}


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    tensors = {"b": torch.zeros(3, 2, dtype=torch.bfloat16), "a": torch.ones(4), "s": torch.tensor(1.5)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(
        LocalFiles(tmp_path), "x.safetensors", size=(tmp_path / "x.safetensors").stat().st_size
    )
    assert {t.name: (t.dtype, t.shape) for t in header.tensors} == {
        "b": ("BF16", (3, 2)), "a": ("F32", (4,)), "s": ("F32", ())
    }  # fmt: skip
    assert header.metadata == {"format": "pt"}


def test_writes_what_safetensors_reads(tmp_path: Path) -> None:
    header = encode([("x", "F32", (2,)), ("y", "BF16", (1, 3))], metadata={"format": "pt"})
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header.raw).to_bytes(8, "little") + header.raw + bytes(14))
    assert {k: tuple(v.shape) for k, v in load_file(path).items()} == {"x": (2,), "y": (1, 3)}
    assert header.data_start % 8 == 0


@pytest.mark.parametrize(
    "entries",
    [
        [],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [2, 3]}},
        entry(dtype="F33"),
        entry(shape=[2, -3]),
        entry(shape=[2.0, 3]),
        entry(shape="23"),
        entry(shape=[True, 6]),
        entry(shape=[2, 4]),
        entry(shape=[2**62, 2**62, 0]),
        entry(data_offsets=[0, 23]),
        entry(data_offsets=[24, 0]),
        entry(data_offsets=[8, 32]),
        entry(data_offsets=[-24, 0]),
        entry(data_offsets=[0, 24, 48]),
        {**GOOD, "b": {"dtype": "F32", "shape": [1], "data_offsets": [20, 24]}},
        {**GOOD, "b": {"dtype": "F32", "shape": [1], "data_offsets": [28, 32]}},
    ],
)
def test_unsound_entries(entries: object) -> None:
    with pytest.raises(InputError) as error:
        read(entries)
    assert error.value.code == "safetensors-broken"


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b'{"a":1,"a":2}', b"null", b"NaN"],
    ids=lambda raw: str(raw[:12]),
)
def test_headers_that_are_no_json_object(raw: bytes) -> None:
    with pytest.raises(InputError):
        parse(raw, file="x", file_size=8 + len(raw))


def test_duplicate_keys_are_not_taken_for_one() -> None:
    one = json.dumps(GOOD["a"])
    raw = f'{{"a":{one},"a":{one}}}'.encode()
    with pytest.raises(InputError, match="twice"):
        parse(raw, file="x", file_size=8 + len(raw) + 24)


@pytest.mark.parametrize(
    ("prefix", "size"), [(b"", 0), (b"\1\0\0", 3), (b"\xff" * 8, 10**6), (b"\x10" + bytes(7), 12)]
)
def test_impossible_lengths(prefix: bytes, size: int) -> None:
    with pytest.raises(InputError):
        header_length(prefix, file="x", file_size=size)


def test_a_truncated_file_is_not_read(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_layout(LocalFiles(tmp_path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "x"]), inner)
    ),
    max_leaves=12,
)


@given(
    st.binary(max_size=200) | st.dictionaries(st.text(max_size=3), JSON).map(lambda d: json.dumps(d).encode())
)
def test_no_bytes_crash_the_reader(raw: bytes) -> None:
    try:
        parse(raw, file="x", file_size=8 + len(raw) + 24)
    except InputError:
        return


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[Path]:
    for number, name in ((1, "a"), (2, "b")):
        save_file({name: torch.zeros(4)}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": weight_map}))
    return tmp_path


def test_shards_by_index(sharded: Path) -> None:
    layout = read_layout(LocalFiles(sharded))
    assert list(layout.tensors) == ["a", "b"]
    assert layout.total_bytes == 32


def test_shards_without_an_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert list(read_layout(LocalFiles(sharded)).tensors) == ["a", "b"]
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(Exception, match=r"no model\.safetensors"):
        read_layout(LocalFiles(sharded))


@pytest.mark.parametrize(
    "change",
    [
        {"a": "../model-00001-of-00002.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "pytorch_model.bin"},
        {"a": 7},
        {"c": "model-00001-of-00002.safetensors"},
        {"a": "model-00002-of-00002.safetensors"},
        {"a": "model-00003-of-00003.safetensors"},
    ],
)
def test_an_index_that_does_not_fit_its_shards(sharded: Path, change: dict) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"].update(change)
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError):
        read_layout(LocalFiles(sharded))
