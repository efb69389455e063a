"""Binding by names: the same answer as looking at the model, without importing what is heavy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bot.errors import RefusedError
from bot.merge.binding import bind
from bot.plan.binding import MODEL_TYPES, bind_by_names
from bot.prepare import prepare
from bot.progress import Silent
from bot.records import Bound
from bot.request import MergeRequest
from bot.weights.files import LocalFiles
from bot.weights.header import TensorSpec
from bot.weights.layout import read_header, read_layout
from tests.merge.oracle import compare, float64_weights, read_tensors
from tests.tiny.adapters import LORA_VARIANTS, edit_config
from tests.tiny.models import ARCHITECTURES

TYPES = {"gemma3": "gemma3_text"}
PLAIN = sorted(a for a in ARCHITECTURES if TYPES.get(a, a) in MODEL_TYPES)


def header_of(adapter: Path) -> dict[str, TensorSpec]:
    size = (adapter / "adapter_model.safetensors").stat().st_size
    header = read_header(LocalFiles(adapter), "adapter_model.safetensors", size=size)
    return {t.name: t for t in header.tensors}


def both_ways(base: Path, adapter: Path) -> tuple[Any, Bound]:
    config = json.loads((base / "config.json").read_text())
    adapter_config = json.loads((adapter / "adapter_config.json").read_text())
    asked: dict[str, Any] = {
        "adapter_config": adapter_config,
        "tensors": header_of(adapter),
        "layout": read_layout(LocalFiles(base)),
    }
    return bind_by_names(config, **asked), bind(config, **asked, name="base")


def test_every_type_is_among_the_tiny_models() -> None:
    assert {TYPES.get(a, a) for a in PLAIN} == MODEL_TYPES


@pytest.mark.parametrize("architecture", PLAIN)
def test_names_say_what_the_model_says(architecture: str, adapter_on: Callable) -> None:
    base, adapter = adapter_on(architecture, {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"})
    names, model = both_ways(base, adapter)
    by_tensor = {b.tensor: b for b in names}
    assert by_tensor.keys() == {b.tensor for b in model.bindings}
    for binding in model.bindings:
        other = by_tensor[binding.tensor]
        assert (other.method, other.shape, other.dtype) == (binding.method, binding.shape, binding.dtype)
        assert set(other.adapter) == set(binding.adapter)
        assert other.scale == pytest.approx(binding.scale, rel=1e-12)
    assert model.model_class == json.loads((base / "config.json").read_text())["architectures"][0]
    assert not model.added
    assert not model.config_edits


def test_a_class_in_place_of_a_task_type_is_the_bases_own_or_left_to_the_model(adapter_on: Callable) -> None:
    base, adapter = adapter_on("llama", {"r": 4, "lora_alpha": 8, "task_type": None}, name="untasked")
    mapping = json.loads((adapter / "adapter_config.json").read_text())["auto_mapping"]
    assert mapping["base_model_class"] == "LlamaForCausalLM"
    names, model = both_ways(base, adapter)
    assert {b.tensor for b in names} == {b.tensor for b in model.bindings}
    edit_config(adapter, auto_mapping=mapping | {"base_model_class": "LlamaModel"})
    assert both_ways(base, adapter)[0] is None


@pytest.mark.parametrize(
    "variant", ["plain", "odd_scale", "rslora", "patterns", "dora", "dora_rslora_patterns"]
)
def test_scales_and_patterns_agree(variant: str, adapter_on: Callable) -> None:
    names, model = both_ways(*adapter_on("llama", LORA_VARIANTS[variant]))
    scales = {b.tensor: b.scale for b in names}
    assert {b.tensor: pytest.approx(b.scale, rel=1e-12) for b in model.bindings} == scales


@pytest.mark.parametrize(
    "variant",
    [
        "embedding",
        "lm_head",
        "save_norm",
        "layers_to_transform",
        "exclude_modules",
        "regex_targets",
        "pattern_regex",
        "bias_all",
        "lora_bias",
        "pissa",
        "olora",
        "kasa",
        "target_parameters",
        "trainable_tokens",
        "seq_cls",
        "all_linear",
    ],
)
def test_what_names_do_not_tell_is_left_to_the_model(variant: str, adapter_on: Callable) -> None:
    base, adapter = adapter_on(
        "llama" if variant != "target_parameters" else "qwen3_moe", LORA_VARIANTS[variant]
    )
    config = json.loads((base / "config.json").read_text())
    tensors = {t.name: t for t in read_header(
        LocalFiles(adapter), "adapter_model.safetensors", size=(adapter / "adapter_model.safetensors").stat().st_size
    ).tensors}  # fmt: skip
    found = bind_by_names(
        config,
        adapter_config=json.loads((adapter / "adapter_config.json").read_text()),
        tensors=tensors,
        layout=read_layout(LocalFiles(base)),
    )
    saved_as_list = variant in {"all_linear", "bias_all", "regex_targets"}
    assert found is None or saved_as_list


@pytest.mark.parametrize("change", [{"r": 8}, {"target_modules": ["q_proj"]}, {"use_dora": True}])
def test_a_config_that_does_not_fit_is_not_bound(change: dict[str, Any], adapter_on: Callable) -> None:
    base, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    edit_config(adapter, **change)
    config = json.loads((base / "config.json").read_text())
    size = (adapter / "adapter_model.safetensors").stat().st_size
    header = read_header(LocalFiles(adapter), "adapter_model.safetensors", size=size)
    asked = json.loads((adapter / "adapter_config.json").read_text())
    tensors = {t.name: t for t in header.tensors}
    assert (
        bind_by_names(config, adapter_config=asked, tensors=tensors, layout=read_layout(LocalFiles(base)))
        is None
    )


@pytest.mark.parametrize("variant", ["odd_scale", "dora"])
def test_the_bytes_do_not_depend_on_the_workers(
    variant: str, base_of: Callable, adapter_on: Callable, bytes_by: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.merge.rows.BLOCK", 256)  # many blocks, also of a tiny tensor
    monkeypatch.setattr("bot.merge.rows.TASK", 1024)
    base = base_of("llama", dtype="bfloat16", shards=3)
    _, adapter = adapter_on("llama", LORA_VARIANTS[variant], base=base)
    assert prepare(MergeRequest(adapter=str(adapter)), hub=None, progress=Silent()).plan.way == "names"
    seen = set()
    for workers, processes in ((1, False), (2, False), (5, False), (2, True), (3, True)):
        monkeypatch.setattr("bot.merge.crew.WORTH_IT", 0 if processes else 2**60)
        seen.add(bytes_by(adapter, base, workers=workers, name="-forked" if processes else ""))
    assert len(seen) == 1


def expert_by_expert(adapter: Path, *, base: Path, targets: list[str]) -> list[str]:
    """A LoRA on all tensors of the base that are called so; the modules that it lies on."""
    adapter.mkdir()
    tensors, generator = read_tensors(base), torch.Generator().manual_seed(0)
    modules = [
        k.removesuffix(".weight") for k in tensors if k.endswith(tuple(f".{t}.weight" for t in targets))
    ]
    weights = {}
    for module in modules:
        rows, columns = tensors[f"{module}.weight"].shape
        weights[f"base_model.model.{module}.lora_A.weight"] = torch.randn(4, columns, generator=generator) / 5
        weights[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) / 20
    save_file(weights, adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": targets,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return modules


GATED, NUMBERED = ["gate_proj", "up_proj", "down_proj"], ["w1", "w2", "w3"]
MIXTURES = {"mixtral": NUMBERED, "phimoe": NUMBERED, "qwen3_moe": GATED}
MIXTURES |= dict.fromkeys(("deepseek_v2", "glm4_moe", "jamba", "olmoe", "qwen3_next"), GATED)


@pytest.mark.parametrize("architecture", MIXTURES)
def test_experts_of_transformers_4(
    architecture: str, base_of: Callable, merged: Callable, tmp_path: Path
) -> None:
    """Adapters whose keys are the names on disk, expert by expert, are merged there; PEFT drops some of them."""
    base, adapter, targets = base_of(architecture), tmp_path / "adapter", MIXTURES[architecture]
    modules = expert_by_expert(adapter, base=base, targets=["q_b_proj", "q_proj", *targets])
    out, plan = merged(adapter)
    exact, found = float64_weights(base, adapter), read_tensors(out)
    assert exact.keys() == {b.tensor for b in plan.bindings} == {f"{m}.weight" for m in modules}
    assert max(float((found[k] - v).abs().max()) for k, v in exact.items()) < 1e-6
    assert all(torch.equal(found[k], v) for k, v in read_tensors(base).items() if k not in exact)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe"])
def test_experts_of_transformers_4_answer_as_in_peft(
    architecture: str, base_of: Callable, merged: Callable, tmp_path: Path
) -> None:
    """Where PEFT does convert them."""
    base, adapter = base_of(architecture), tmp_path / "adapter"
    expert_by_expert(adapter, base=base, targets=MIXTURES[architecture])
    out, plan = merged(adapter)
    difference = compare(architecture, base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05


@pytest.mark.parametrize("adapted", [False, True])
def test_a_layer_that_predicts_a_second_token_is_left_alone(
    adapted: bool, base_of: Callable, tmp_path: Path
) -> None:
    """It lies on disk behind the others, and transformers does not build it: an adapter of it is not guessed at."""
    base = shutil.copytree(base_of("deepseek_v3"), tmp_path / "base")
    tensors = read_tensors(base)
    more = {k.replace("layers.1.", "layers.2."): v.clone() for k, v in tensors.items() if "layers.1." in k}
    more |= {} if adapted else {f"mtp.{k}": v.clone() for k, v in more.items()}
    adapter = tmp_path / "adapter"
    if not adapted:
        modules = expert_by_expert(adapter, base=base, targets=["q_b_proj", *GATED])
    save_file(tensors | more, base / "model.safetensors", metadata={"format": "pt"})
    if adapted:
        expert_by_expert(adapter, base=base, targets=["q_b_proj", *GATED])
    found = bind_by_names(
        json.loads((base / "config.json").read_text()),
        adapter_config=json.loads((adapter / "adapter_config.json").read_text()),
        tensors=header_of(adapter),
        layout=read_layout(LocalFiles(base)),
    )
    assert found is None if adapted else {b.tensor for b in found or ()} == {f"{m}.weight" for m in modules}


def test_a_module_that_is_never_called_is_left_to_the_model(
    base_of: Callable, merged: Callable, tmp_path: Path
) -> None:
    expert_by_expert(tmp_path / "adapter", base=base_of("jamba"), targets=["dt_proj"])
    with pytest.raises(RefusedError) as refusal:
        merged(tmp_path / "adapter")
    assert refusal.value.code == "module-not-called"


def test_a_plain_merge_imports_neither_transformers_nor_peft(adapter_on: Callable, tmp_path: Path) -> None:
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    code = (
        "import sys; from bot.cli import main;"
        f"code = main(['merge', {str(adapter)!r}, '--out', {str(tmp_path / 'out')!r}, '--no-validate', '--json']);"
        "heavy = {'transformers', 'peft', 'huggingface_hub', 'accelerate'} & sys.modules.keys();"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "0 []"
