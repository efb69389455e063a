"""A merge into the dequantised weights of a quantised base: what transformers makes of it, plus the adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bot import pipeline
from bot.errors import ValidationError
from bot.progress import Silent
from bot.publish import messages
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from tests.merge.oracle import compare, float64_weights, read_tensors
from tests.tiny.adapters import LORA_VARIANTS, save_adapter
from tests.tiny.quantised import (
    BITSANDBYTES,
    save_bitsandbytes,
    save_compressed,
    save_fbgemm,
    save_fp8,
    save_mxfp4,
    save_plain,
    save_wide,
)

PLAIN = LORA_VARIANTS["plain"]
LAST = LORA_VARIANTS["layers_to_transform"]  # touches two tensors of many
FORMATS = {
    **{kind: lambda folder, base, kind=kind: save_bitsandbytes(folder, base, kind) for kind in BITSANDBYTES},
    "fp8": save_fp8,
    "fp8_e8m0": lambda folder, base: save_fp8(folder, base, scale_dtype=torch.float8_e8m0fnu),
    "float_channel": lambda folder, base: save_compressed(folder, base, strategy="channel"),
    "float_tensor": lambda folder, base: save_compressed(folder, base, strategy="tensor"),
    "int_channel": lambda folder, base: save_compressed(folder, base, strategy="channel", bits="int"),
}
QUICK = ("nf4_double", "float_channel")


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


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in FORMATS],
)
def test_the_merge_is_the_adapter_on_what_transformers_dequantises(
    kind: str, quantised: Callable, merged: Callable
) -> None:
    _, plain, adapter = quantised(kind)
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


def test_experts_in_mxfp4(tmp_path: Path, base_of: Callable, merged: Callable) -> None:
    """What transformers makes of gpt-oss, merged by an adapter on attention and on the experts themselves."""
    base = base_of("gpt_oss", dtype="bfloat16")
    packed = save_mxfp4(tmp_path / "quantised", base)
    plain = save_plain(tmp_path / "plain", packed, base)
    config = {"r": 4, "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    adapter = save_adapter(
        tmp_path / "adapter", plain, config=config, architecture="gpt_oss", base_name=str(packed)
    )
    out, plan = merged(adapter, quantized_base="dequantize", validation="full")
    assert plan.dequantized == "MXFP4"
    before, after = read_tensors(plain), read_tensors(out)
    touched = {b.tensor for b in plan.bindings}
    assert {"model.layers.0.mlp.experts.down_proj", "model.layers.1.self_attn.q_proj.weight"} <= touched
    assert all(torch.equal(after[n], t) for n, t in before.items() if n not in touched)
    assert all(not torch.equal(after[n], before[n]) for n in touched)
    answers = compare("gpt_oss", base=plain, adapter=adapter, out=out, plan=plan)
    assert answers.error < 0.05 * answers.effect


def test_fp8_with_a_scale_for_each_row_is_multiplied_by_it(
    tmp_path: Path, wide: Path, merged: Callable
) -> None:
    """fbgemm has no kernels for a CPU, so transformers cannot be asked: the format's own rule is."""
    packed = save_fbgemm(tmp_path / "quantised", wide)
    adapter = save_adapter(
        tmp_path / "adapter", wide, config=LAST, architecture="llama", base_name=str(packed)
    )
    out, plan = merged(adapter, quantized_base="dequantize", validation="tensors")
    stored, after = load_file(packed / "model.safetensors"), read_tensors(out)
    for name in load_file(wide / "model.safetensors").keys() - {b.tensor for b in plan.bindings}:
        scale = stored.get(f"{name}_scale")
        want = stored[name] if scale is None else (stored[name].double() * scale.double()).bfloat16()
        assert torch.equal(after[name], want), name


@pytest.mark.parametrize("kind", ["nf4_double", "int8"])
def test_shards_may_part_a_weight_from_its_scales(
    kind: str, tmp_path: Path, wide: Path, merged: Callable
) -> None:
    whole = save_bitsandbytes(tmp_path / "whole", wide, kind)
    packed = save_bitsandbytes(tmp_path / "quantised", wide, kind)
    tensors = load_file(packed / "model.safetensors")
    (packed / "model.safetensors").unlink()
    names = sorted(tensors, reverse=True)  # scales come in front of their weights
    places = {n: f"model-0000{1 + (3 * i) // len(names)}-of-00003.safetensors" for i, n in enumerate(names)}
    parted = [n for n in names if n.endswith(("absmax", "SCB"))]
    places |= dict.fromkeys(parted, "model-00003-of-00003.safetensors")
    for file in set(places.values()):
        part = {n: tensors[n] for n, place in places.items() if place == file}
        save_file(part, packed / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (packed / "model.safetensors.index.json").write_text(json.dumps(index))
    results = []
    for base, name in ((whole, "one"), (packed, "three")):
        adapter = save_adapter(
            tmp_path / f"adapter_{name}", wide, config=LAST, architecture="llama", base_name=str(base)
        )
        out, _ = merged(adapter, out=tmp_path / name, quantized_base="dequantize", validation="structure")
        results.append(read_tensors(out))
    assert len(list((tmp_path / "three").glob("*.safetensors"))) == 3
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_dtype_that_is_asked_for_holds_for_dequantised_weights_too(
    dtype: str, quantised: Callable, merged: Callable
) -> None:
    _, plain, adapter = quantised("nf4", config=LAST)
    out, plan = merged(adapter, quantized_base="dequantize", dtype=dtype, validation="tensors")
    touched, after = {b.tensor for b in plan.bindings}, read_tensors(out)
    kind = getattr(torch, dtype)
    assert all(torch.equal(after[n], t.to(kind)) for n, t in read_tensors(plain).items() if n not in touched)


def test_nothing_is_left_beside_the_result(quantised: Callable, merged: Callable, tmp_path: Path) -> None:
    _, _, adapter = quantised("nf4", config=LAST)
    before = {p.name for p in tmp_path.iterdir()}
    out, _ = merged(adapter, quantized_base="dequantize")
    assert {p.name for p in tmp_path.iterdir()} == before | {out.name}


def test_the_plan_the_card_and_the_report_say_it(quantised: Callable, merged: Callable) -> None:
    packed, _, adapter = quantised("nf4_double", config=LAST)
    out, plan = merged(adapter, quantized_base="dequantize", validation="structure")
    title = "bitsandbytes nf4 with double quantisation"
    assert plan.dequantized == title
    assert any(title in note and "14 tensors become BF16" in note for note in plan.notes)
    edit = next(e for e in plan.config_edits if e.key == "quantization_config")
    assert (edit.before["quant_method"], edit.after) == ("bitsandbytes", None)
    card = (out / "README.md").read_text()
    assert "merged into its dequantised weights" in card
    assert f"merged into the dequantised weights of its quantised base model ({title})" in card
    to = Destination(kind="hub_pr", location="me/there")
    assert "the dequantised weights of its quantised" in messages.body(
        plan, report=None, destination=to, requested_by=None
    )
    report = json.loads((out / "merge_report.json").read_text())
    assert any("its dequantised weights" in note for note in report["notes"])
    check = next(c for c in report["checks"] if c["name"] == "dequantised")
    assert (check["verdict"], check["figure"]) == ("passed", title)
    assert "not on the full-precision model" in check["detail"]
    size = sum(p.stat().st_size for p in out.glob("*.safetensors"))
    assert plan.estimate.disk_bytes >= 2 * (size - 10_000) > sum(p.stat().st_size for p in packed.iterdir())


@pytest.mark.parametrize(
    ("broken", "check"),
    [("weight", "changed"), ("copy", "untouched"), ("config", "dequantised"), ("codes", "keys")],
)
def test_a_broken_merge_fails_its_checks(
    broken: str, check: str, quantised: Callable, merged: Callable
) -> None:
    packed, _, adapter = quantised("nf4", config=LAST)
    out, plan = merged(adapter, quantized_base="dequantize", validation="structure")
    tensors = load_file(out / "model.safetensors")
    touched = plan.bindings[0].tensor
    other = next(
        n for n in tensors if n.endswith("proj.weight") and n not in {b.tensor for b in plan.bindings}
    )
    if broken == "config":
        config = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    if broken == "codes":
        stored = load_file(packed / "model.safetensors")
        tensors |= {n: t for n, t in stored.items() if n.startswith(f"{other}.")}
        tensors[other] = stored[other]
    if broken in {"weight", "copy"}:
        tensors[touched if broken == "weight" else other][0, 0] *= 1.05
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    request = MergeRequest(adapter=str(adapter), quantized_base="dequantize", validation="tensors")
    with pytest.raises(ValidationError) as failure:
        pipeline.validate(out, request, settings=Settings(isolation="none"), progress=Silent())
    failed = {c.name for c in failure.value.report.checks if c.verdict == "failed"}
    assert check in failed


def test_the_key_tells_both_merges_apart(quantised: Callable, plan_of: Callable, wide: Path) -> None:
    _, _, adapter = quantised("nf4", config=LAST)
    dequantised = plan_of(adapter, quantized_base="dequantize")
    assert dequantised.key != plan_of(adapter, base=str(wide)).key
    assert plan_of(adapter, base=str(wide)).dequantized == ""
