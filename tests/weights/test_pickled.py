"""Pickle weights: refused unless allowed, read as tensors and nothing else, and merged as safetensors."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.errors import InputError, RefusedError
from bot.weights.archive import read_pickled_header
from bot.weights.files import LocalFiles
from bot.weights.pickled import header_of
from tests.merge.oracle import compare, read_tensors
from tests.tiny.adapters import LORA_VARIANTS, edit_config
from tests.tiny.models import load

PLAIN = LORA_VARIANTS["plain"]
SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def pickled(base: Path, out: Path, *, shards: int = 1, tied: bool = False) -> Path:
    """The base with its weights as pickle, as transformers 4 saved them."""
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = load(base).state_dict() if tied else read_tensors(base)
    names = sorted(tensors)
    if shards == 1:
        torch.save(tensors, out / SINGLE)
        return out
    weight_map = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        mine = names[number::shards]
        torch.save({n: tensors[n] for n in mine}, out / file)
        weight_map |= dict.fromkeys(mine, file)
    (out / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return out


class Bait:
    """What a malicious file holds: loading it with pickle would create a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def refused(call: Callable[[], object]) -> RefusedError:
    with pytest.raises(RefusedError) as refusal:
        call()
    return refusal.value


def test_only_pickle_is_refused_with_the_flag_as_advice(
    base_of: Callable, adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    base = pickled(base_of("llama"), tmp_path / "base")
    _, adapter = adapter_on("llama", PLAIN)
    error = refused(lambda: plan_of(adapter, base=str(base)))
    assert error.code == "base-not-safetensors"
    assert "--allow-pickle" in error.advice


@pytest.mark.parametrize("shards", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("variant", ["plain", pytest.param("save_embed_and_head", marks=pytest.mark.slow)])
def test_merges_like_the_same_base_in_safetensors(
    shards: int, variant: str, base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    original = base_of("llama", dtype="bfloat16")
    base = pickled(original, tmp_path / "base", shards=shards)
    _, adapter = adapter_on("llama", LORA_VARIANTS[variant], base=original)
    want, _ = merged(adapter, base=str(original), out=tmp_path / "want")
    out, plan = merged(adapter, base=str(base), allow_pickle=True, validation="full")
    first, second = read_tensors(want), read_tensors(out)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert any("weights_only" in note for note in plan.notes)
    files = {p.name for p in out.glob("model*")}
    assert files == ({"model.safetensors"} if shards == 1 else {*plan.shards, "model.safetensors.index.json"})
    assert not list(out.glob("*.bin*"))
    assert plan.way == ("names" if variant == "plain" else "layers")


@pytest.mark.slow
def test_tied_storage_is_written_under_both_names(
    base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    original = base_of("llama_tied")
    base = pickled(original, tmp_path / "base", tied=True)
    for variant in ("plain", "embedding", "lm_head", "weight_tying"):
        _, adapter = adapter_on("llama_tied", LORA_VARIANTS[variant], base=original, name=variant)
        out, plan = merged(
            adapter, base=str(base), allow_pickle=True, validation="full", out=tmp_path / f"out-{variant}"
        )
        assert {"lm_head.weight", "model.embed_tokens.weight"} <= read_tensors(out).keys()
        difference = compare("llama_tied", base=original, adapter=adapter, out=out, plan=plan)
        assert difference.error < 2e-5, variant
        assert difference.effect > 0.05


def test_views_dtypes_and_alignment_survive(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from bot.progress import Silent
    from bot.weights.pickled import convert

    tensors = {
        "flag": torch.tensor([True, False, True]),
        "turned": torch.randn(4, 6).T,
        "part": torch.randn(9, 3)[2:5],
        "half": torch.randn(3).to(torch.float16),
        "f8": torch.randn(5).to(torch.float8_e4m3fn),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    torch.save(tensors, tmp_path / SINGLE)
    header = read_pickled_header(LocalFiles(tmp_path), SINGLE, interpret=header_of)
    convert(tmp_path / SINGLE, out=tmp_path / "x.safetensors", header=header, progress=Silent())
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].float(), tensor.detach().float()), name


def test_safetensors_come_first(
    base_of: Callable, adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_of("llama"), base)
    (base / SINGLE).write_bytes(b"never opened")
    _, adapter = adapter_on("llama", PLAIN)
    (adapter / "adapter_model.bin").write_bytes(b"never opened")
    plan = plan_of(adapter, base=str(base), allow_pickle=True)
    assert plan.shards == ("model.safetensors",)
    assert not any("pickle" in note for note in plan.notes)


@pytest.mark.parametrize("whose", ["base", "adapter"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_runs_nothing(
    whose: str, zipped: bool, base_of: Callable, adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    _, adapter = adapter_on("llama", PLAIN)
    base = pickled(base_of("llama"), tmp_path / "base")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    victim = base / SINGLE if whose == "base" else adapter / "adapter_model.bin"
    if whose == "base":
        torch.save({"base_model.model.x.lora_A.weight": torch.zeros(1)}, adapter / "adapter_model.bin")
    if zipped:
        torch.save({"a": torch.zeros(2), "b": Bait(marker)}, victim)
    else:
        victim.write_bytes(pickle.dumps({"b": Bait(marker)}))
    with pytest.raises((RefusedError, InputError)) as error:
        plan_of(adapter, base=str(base), allow_pickle=True)
    assert error.value.code == ("pickle-unsafe" if zipped else "pickle-broken")
    assert "\n" not in error.value.sentence
    assert not marker.exists()


def test_a_file_that_changed_between_plan_and_merge_is_not_used(tmp_path: Path) -> None:
    from bot.progress import Silent
    from bot.weights.pickled import convert

    torch.save({"a": torch.zeros(3)}, tmp_path / SINGLE)
    header = read_pickled_header(LocalFiles(tmp_path), SINGLE, interpret=header_of)
    torch.save({"a": torch.zeros(4)}, tmp_path / SINGLE)
    with pytest.raises(InputError, match="planned"):
        convert(tmp_path / SINGLE, out=tmp_path / "x.safetensors", header=header, progress=Silent())
    marker = tmp_path / "marker"
    torch.save({"a": Bait(marker)}, tmp_path / SINGLE)
    with pytest.raises(RefusedError):
        convert(tmp_path / SINGLE, out=tmp_path / "x.safetensors", header=header, progress=Silent())
    assert not marker.exists()


def _legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)


def _squeezed(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)
    with zipfile.ZipFile(path) as source:
        records = [(i.filename, source.read(i)) for i in source.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in records:
            target.writestr(name, data)


def _cut(path: Path) -> None:
    torch.save({"a": torch.zeros(300)}, path)
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (_legacy, "pickle-broken"),
        (_squeezed, "pickle-broken"),
        (_cut, "pickle-broken"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "pickle-broken"),
        (lambda path: path.write_bytes(b""), "pickle-broken"),
        (lambda path: torch.save({}, path), "pickle-broken"),
        (lambda path: torch.save({"state_dict": {"a": torch.zeros(1)}}, path), "pickle-not-plain"),
        (lambda path: torch.save([torch.zeros(1)], path), "pickle-not-plain"),
        (lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path), "pickle-not-plain"),
        (lambda path: torch.save({"a": 1}, path), "pickle-not-plain"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "pickle-unsafe"),
    ],
)
def test_what_is_no_table_of_tensors(make: Callable[[Path], object], code: str, tmp_path: Path) -> None:
    make(tmp_path / SINGLE)
    with pytest.raises((RefusedError, InputError)) as error:
        read_pickled_header(LocalFiles(tmp_path), SINGLE, interpret=header_of)
    assert error.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        {"lm_head.weight": "../x.bin"},
        {"lm_head.weight": "model.safetensors"},
        {"lm_head.weight": "pytorch_model-00009-of-00009.bin"},
        {"ghost": "pytorch_model-00001-of-00002.bin"},
    ],
)
def test_an_index_that_lies(
    change: dict[str, str], base_of: Callable, adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    base = pickled(base_of("llama"), tmp_path / "base", shards=2)
    index = json.loads((base / INDEX).read_text())
    index["weight_map"].update(change)
    (base / INDEX).write_text(json.dumps(index))
    _, adapter = adapter_on("llama", PLAIN)
    with pytest.raises(InputError):
        plan_of(adapter, base=str(base), allow_pickle=True)


def test_a_pickle_adapter(adapter_on: Callable, merged: Callable, plan_of: Callable) -> None:
    from safetensors.torch import load_file

    base, adapter = adapter_on("llama", PLAIN)
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert "--allow-pickle" in refused(lambda: plan_of(adapter)).advice
    out, plan = merged(adapter, allow_pickle=True, validation="full")
    assert compare("llama", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5
    assert any("adapter_model.bin" in note for note in plan.notes)
    edit_config(adapter, r=5)
    assert refused(lambda: plan_of(adapter, allow_pickle=True)).code == "shape-mismatch"


def test_nothing_is_left_in_the_scratch_folder(
    base_of: Callable, adapter_on: Callable, tmp_path: Path
) -> None:
    from bot import pipeline
    from bot.progress import Silent
    from bot.request import Destination, MergeRequest
    from bot.settings import Settings

    base = pickled(base_of("llama"), tmp_path / "base")
    _, adapter = adapter_on("llama", PLAIN)
    scratch = tmp_path / "scratch"
    request = MergeRequest(
        adapter=str(adapter),
        base=str(base),
        destination=Destination(kind="folder", location=str(tmp_path / "out")),
        allow_pickle=True,
        validation="none",
    )
    pipeline.merge(request, settings=Settings(scratch=scratch, isolation="none"), progress=Silent())
    assert not list(scratch.iterdir())


def test_planning_reads_no_tensor_data(
    base_of: Callable, adapter_on: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes over the network for a base on the Hub: the zip's directory and the small records."""
    torch.save({f"w{i}": torch.zeros(256, 1024) for i in range(4)}, tmp_path / SINGLE)
    files = LocalFiles(tmp_path)
    read, plain = [0], files.read

    def counted(name: str, *, start: int = 0, end: int | None = None) -> bytes:
        data = plain(name, start=start, end=end)
        read[0] += len(data)
        return data

    monkeypatch.setattr(files, "read", counted)
    header = read_pickled_header(files, SINGLE, interpret=header_of)
    assert header.file_size > 4 * 2**20
    assert read[0] < 400_000
