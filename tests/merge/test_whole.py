"""The whole model, loaded by transformers, where its tensors cannot be streamed: right, and the same as streaming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from bot import pipeline
from bot.errors import RefusedError
from bot.merge.loaded import Loaded
from bot.merge.whole import WholeMerger, check_adapter
from bot.prepare import prepare
from bot.progress import Silent
from bot.records import Check, Plan
from bot.request import Destination, MergeRequest, Recipe
from bot.settings import Settings
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from bot.weights.reader import TensorReader
from bot.weights.reader import read_tensors as read_adapter
from tests.merge.oracle import compare, read_tensors, spacing
from tests.tiny.adapters import LORA_VARIANTS, edit_config, perturb, rewrite_weights
from tests.tiny.models import fill

EXPERTS = {"r": 4, "lora_alpha": 8, "target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]}
HEADLESS = EXPERTS | {"task_type": "SEQ_CLS"}


def renamed(base: Path, out: Path, name: Callable[[str], str | None], **config: Any) -> Path:
    """A copy of the base under other names; those without one are left out."""
    shutil.copytree(base, out)
    tensors = {name(k): v for k, v in read_tensors(base).items()}
    for path in out.glob("*.safetensors"):
        path.unlink()
    save_file({k: v for k, v in tensors.items() if k}, out / "model.safetensors", metadata={"format": "pt"})
    edited = json.loads((out / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps(edited))
    return out


def headless(name: str) -> str | None:
    """As AutoModel saves it, without a prefix, in the older form: experts one by one."""
    return None if name.startswith("lm_head") else name.removeprefix("model.")


def half_modern(name: str) -> str:
    """The second layer's experts lie where transformers 5 has them, the first one's where Mixtral had them."""
    return name.replace("layers.1.block_sparse_moe", "layers.1.mlp")


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., tuple[Path, Plan, dict[str, Check]]]:
    """Merges, with every check, and gives the folder, the plan and the checks by name."""

    def merge(adapter: Path, **request: Any) -> tuple[Path, Plan, dict[str, Check]]:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        asked = MergeRequest(
            adapter=str(adapter),
            destination=Destination(kind="folder", location=str(out)),
            **{"validation": "full", **request},
        )
        plan, _, report = pipeline.merge(asked, settings=Settings(isolation="none"), progress=Silent())
        assert report is not None
        return out, plan, {check.name: check for check in report.checks}

    return merge


def expert_weights(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What the experts' first projections become, in float64, by the paper's formula; as Mixtral's w1 and w3."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    mine = {k: v.double() for k, v in load_file(adapter / "adapter_model.safetensors").items()}
    theirs, found = read_tensors(base), {}
    for key in (k for k in mine if k.endswith("lora_A.weight")):
        a, b = mine[key], mine[key.replace("lora_A", "lora_B")]
        rank, number = config["r"], key.split(".layers.")[1].split(".")[0]
        count = a.shape[0] // rank
        a = a.reshape(count, rank, -1)
        b = b.reshape(b.shape[0], rank, count)
        for expert in range(count):
            delta = config["lora_alpha"] / rank * (b[..., expert] @ a[expert])
            prefix = f"model.layers.{number}.block_sparse_moe.experts.{expert}"
            first, second = delta.chunk(2)
            found[f"{prefix}.w1.weight"] = theirs[f"{prefix}.w1.weight"].double() + first
            found[f"{prefix}.w3.weight"] = theirs[f"{prefix}.w3.weight"].double() + second
    return found


def check_experts(out: dict[str, torch.Tensor], *, base: Path, adapter: Path) -> None:
    """The merged stacks, under today's names, are base + adapter, and were rounded once."""
    wanted = expert_weights(base, adapter)
    assert wanted
    for name, value in wanted.items():
        layer, expert = name.split(".layers.")[1].split(".")[0], int(name.split(".experts.")[1].split(".")[0])
        stack = out[f"model.layers.{layer}.mlp.experts.gate_up_proj"][expert]
        merged = stack.chunk(2)[0 if ".w1." in name else 1]
        unit = spacing(value, merged.dtype)
        bound = unit / 2 + 2.0**-20 * value.abs().max()
        assert ((merged.double() - value).abs() <= bound).all(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_without_its_prefix_below_a_head(
    dtype: str, base_of: Callable, adapter_on: Callable, checked: Callable, tmp_path: Path
) -> None:
    """transformers writes the experts back with the prefix that this base has not: streaming cannot serve."""
    whole = base_of("mixtral", dtype=dtype, tokenizer=False)
    base = renamed(whole, tmp_path / "headless", headless, architectures=["MixtralModel"])
    _, adapter = adapter_on("mixtral", HEADLESS, base=base, num_labels=3)
    out, plan, checks = checked(adapter)
    assert plan.way == "whole"
    assert any("whole model" in note and "cannot write" in note for note in plan.notes)
    assert any("today" in note for note in plan.notes)
    assert {c.verdict for c in checks.values()} <= {"passed", "skipped"}
    assert checks["changed"].verdict == checks["logits"].verdict == "passed"
    tensors, before = read_tensors(out), read_tensors(whole)
    assert all(k.startswith(("model.", "score.")) for k in tensors)
    check_experts(tensors, base=whole, adapter=adapter)
    for name, tensor in before.items():
        if ".experts." not in name and name != "lm_head.weight":
            assert torch.equal(tensors[name.replace("block_sparse_moe", "mlp")], tensor), name
    difference = compare("mixtral", base=base, adapter=adapter, out=out, plan=plan, num_labels=3)
    assert difference.error < (2e-5 if dtype == "float32" else 5e-2)


def test_a_base_with_two_ways_to_name_its_experts(
    base_of: Callable, adapter_on: Callable, checked: Callable, tmp_path: Path
) -> None:
    whole = base_of("mixtral", tokenizer=False)
    base = renamed(whole, tmp_path / "mixed", half_modern)
    _, adapter = adapter_on("mixtral", EXPERTS, base=base)
    out, plan, checks = checked(adapter)
    assert plan.way == "whole"
    assert checks["changed"].verdict == checks["logits"].verdict == "passed"
    check_experts(read_tensors(out), base=whole, adapter=adapter)
    assert compare("mixtral", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5


def test_experts_saved_whole_need_no_whole_model(
    base_of: Callable, adapter_on: Callable, checked: Callable
) -> None:
    """modules_to_save on experts that lie on disk one by one."""
    base = base_of("mixtral", dtype="bfloat16", tokenizer=False)
    config = {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["experts"]}
    _, adapter = adapter_on("mixtral", config, base=base)
    first, plan, checks = checked(adapter)
    assert plan.way == "layers"
    assert checks["changed"].verdict == "passed"
    saved = load_file(adapter / "adapter_model.safetensors")
    key = next(k for k in saved if "layers.0" in k and k.endswith("experts.down_proj"))
    for number, expert in enumerate(saved[key]):
        name = f"model.layers.0.block_sparse_moe.experts.{number}.w2.weight"
        assert torch.equal(read_tensors(first)[name], expert.bfloat16())
    second, plan, _ = checked(adapter, way="whole", validation="tensors")
    assert plan.way == "whole"
    assert_same(first, second)


def test_experts_under_newer_names_are_written_back_as_they_were(
    base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    base = renamed(
        base_of("mixtral", tokenizer=False), tmp_path / "new", lambda k: k.replace("block_sparse_moe", "mlp")
    )
    _, adapter = adapter_on("mixtral", EXPERTS, base=base)
    out, plan = merged(adapter)
    assert plan.way == "layers"
    assert read_tensors(out).keys() == read_tensors(base).keys()
    assert compare("mixtral", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5


def assert_same(first: Path, second: Path, *, places: float = 0.0) -> None:
    """The same names, shapes, dtypes; each number equal, or so many units in the last place (of the largest) off."""
    one, two = read_tensors(first), read_tensors(second)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        other = two[name]
        assert (tensor.shape, tensor.dtype) == (other.shape, other.dtype), name
        if places and tensor.is_floating_point():
            unit = torch.maximum(
                spacing(tensor.double(), tensor.dtype), tensor.double().abs().max() * 2.0**-22
            )
            assert ((tensor.double() - other.double()).abs() <= places * unit).all(), name
        else:
            assert torch.equal(tensor, other), name


CASES: list[tuple[str, str | dict[str, Any], str, bool]] = [
    ("llama", "plain", "bfloat16", False),
    ("llama", "dora", "float32", False),
    ("llama", "save_embed_and_head", "bfloat16", False),
    ("llama_tied", "embedding_and_head", "float32", False),
    ("llama", "pissa", "float32", True),
    ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_fc"]}, "float32", True),
    ("qwen3_moe", EXPERTS, "bfloat16", True),
    ("t5", {"r": 4, "target_modules": ["q", "v", "wo"], "task_type": "SEQ_2_SEQ_LM"}, "float32", False),
    ("llama", {"peft_type": "VERA", "target_modules": ["q_proj", "v_proj"]}, "float32", True),
    ("whisper", {"r": 4, "target_modules": ["conv1", "q_proj"]}, "float32", False),
]


@pytest.mark.parametrize(
    ("architecture", "config", "dtype", "exact"),
    [pytest.param(*case, marks=[] if number % 2 else pytest.mark.slow) for number, case in enumerate(CASES)],
)
def test_it_gives_what_streaming_gives(
    architecture: str,
    config: str | dict[str, Any],
    dtype: str,
    exact: bool,
    base_of: Callable,
    adapter_on: Callable,
    merged: Callable,
    tmp_path: Path,
) -> None:
    """Bit for bit where both go through PEFT's layers; else within one rounding and the sums' own order."""
    base = base_of(architecture, dtype=dtype)
    keys = LORA_VARIANTS[config] if isinstance(config, str) else config
    _, adapter = adapter_on(architecture, keys, base=base)
    first, streamed = merged(adapter, out=tmp_path / "streamed")
    second, whole = merged(adapter, out=tmp_path / "whole", way="whole", validation="tensors")
    assert streamed.way in {"names", "layers"}
    assert whole.way == "whole"
    assert whole.key != streamed.key
    assert {b.tensor for b in whole.bindings} == {b.tensor for b in streamed.bindings}
    assert_same(first, second, places=0.0 if exact else 1.0)


@pytest.fixture
def by_hand(base_of: Callable, adapter_on: Callable, tmp_path: Path) -> Callable[..., Any]:
    """A loaded base and its merger, with as much memory as is asked for."""

    def make(architecture: str, config: dict[str, Any], *, memory: int) -> tuple[Plan, Loaded, WholeMerger]:
        base, adapter = adapter_on(architecture, config, base=base_of(architecture, dtype="bfloat16"))
        asked = MergeRequest(adapter=str(adapter), way="whole")
        plan = prepare(asked, hub=None, progress=Silent()).plan
        layout, settings = read_layout(LocalFiles(base)), json.loads((base / "config.json").read_text())
        loaded = Loaded(
            plan,
            folder=base,
            base=layout,
            config=settings,
            device="cpu",
            scratch=tmp_path,
            memory=memory,
        )
        merger = WholeMerger(
            plan,
            config=settings,
            reader=TensorReader(base, layout=layout),
            adapter=read_adapter(adapter / plan.adapter_file, renamed=plan.renamed),
            loaded=loaded,
            device=torch.device("cpu"),
        )
        return plan, loaded, merger

    return make


@pytest.mark.parametrize(
    ("architecture", "config"), [("llama", LORA_VARIANTS["dora"]), ("qwen3_moe", EXPERTS)]
)
def test_what_does_not_fit_into_memory_lies_on_the_disk(
    architecture: str, config: dict[str, Any], by_hand: Callable, tmp_path: Path
) -> None:
    """A few kilobytes for the weights: most are offloaded, and the merge is the same, with nothing left on meta."""
    plan, loaded, merger = by_hand(architecture, config, memory=2**30)
    with loaded:
        assert loaded.offloaded == 0
        want = {b.tensor: merger._merged(b) for b in plan.bindings}
    plan, loaded, merger = by_hand(architecture, config, memory=60_000)
    with loaded:
        assert loaded.offloaded > 0
        assert any(path.name.startswith(".offload-") for path in tmp_path.iterdir())
        kept = sum(p.nbytes for p in loaded.model.parameters() if not p.is_meta)
        assert kept <= 60_000
        for binding in plan.bindings:
            got = merger._merged(binding)
            assert not got.is_meta
            assert torch.equal(got, want[binding.tensor]), binding.tensor
        assert sum(p.nbytes for p in loaded.model.parameters() if not p.is_meta) == kept
    assert not any(path.name.startswith(".offload-") for path in tmp_path.iterdir())


@pytest.mark.parametrize("memory", [1, 40_000])
def test_no_digit_is_lost_on_the_way(
    memory: int,
    base_of: Callable,
    adapter_on: Callable,
    merged: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A base of three dtypes whose config names the smallest, with room for hardly anything but the disk."""
    base = tmp_path / "mixed"
    shutil.copytree(base_of("llama"), base)
    kinds = {"mlp": torch.float16, "q_proj": torch.bfloat16}
    tensors = {
        k: v.to(next((kind for part, kind in kinds.items() if part in k), v.dtype))
        for k, v in read_tensors(base).items()
    }
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text()) | {"dtype": "bfloat16"}
    (base / "config.json").write_text(json.dumps(config))
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"], base=base)
    monkeypatch.setattr("bot.merge.loaded.available", lambda: memory)
    first, _ = merged(adapter, out=tmp_path / "streamed")
    second, plan = merged(adapter, out=tmp_path / "whole", way="whole", validation="tensors")
    assert plan.way == "whole"
    assert_same(first, second, places=1.0)


def test_a_base_that_transformers_would_load_otherwise_is_refused(
    base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """The fallback refuses, too: here a tensor that the plan has seen is gone from the file that is loaded."""
    base = tmp_path / "base"
    shutil.copytree(base_of("llama"), base)
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"], base=base)
    plan = prepare(MergeRequest(adapter=str(adapter), way="whole"), hub=None, progress=Silent()).plan
    layout = read_layout(LocalFiles(base))
    lost = "model.layers.1.mlp.up_proj.weight"
    tensors = {k: v for k, v in read_tensors(base).items() if k != lost}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedError) as refusal:
        Loaded(
            plan,
            folder=base,
            base=layout,
            config=json.loads((base / "config.json").read_text()),
            device="cpu",
            scratch=tmp_path,
        )
    assert refusal.value.code == "whole-not-loaded"
    assert lost in refusal.value.sentence
    assert not list(tmp_path.glob(".offload-*"))


@pytest.mark.parametrize("kind", ["alpha", "experts"])
def test_without_effect(
    kind: str, base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    if kind == "alpha":
        _, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
        rewrite_weights(
            adapter, lambda tensors: {k: v * 0 if "lora_B" in k else v for k, v in tensors.items()}
        )
    else:  # and under today's names, where no tensor of the base has the merged one's name
        base = renamed(base_of("mixtral", tokenizer=False), tmp_path / "mixed", half_modern)
        _, adapter = adapter_on("mixtral", EXPERTS, base=base)
        rewrite_weights(
            adapter, lambda tensors: {k: v * 0 if "lora_B" in k else v for k, v in tensors.items()}
        )
    with pytest.raises(RefusedError) as refusal:
        merged(adapter, way="whole")
    assert refusal.value.code == "no-effect"


def test_an_adapter_tensor_that_nothing_covers_is_refused(adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    edit_config(adapter, layers_to_transform=[0])
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter, way="whole")
    assert refusal.value.code == "adapter-tensor-left-over"


@pytest.mark.parametrize("kind", ["more", "fewer", "other"])
def test_what_peft_has_not_taken_up_is_refused_by_name(kind: str, by_hand: Callable) -> None:
    """The accounting after loading, by name and by value: it does not rely on the plan alone."""
    plan, loaded, merger = by_hand("llama", LORA_VARIANTS["plain"], memory=2**30)
    with loaded:
        modules = merger.modules
        adapter = dict(modules.adapter)
        name = min(adapter)
        if kind == "more":
            name = adapter_name = f"{name}.further"
            adapter[adapter_name] = torch.ones(2)
        elif kind == "fewer":
            del adapter[name]
        else:
            adapter[name] = adapter[name] + 1e-3
        with pytest.raises(RefusedError) as refusal:
            check_adapter(plan, peft_model=modules.peft_model, adapter=adapter)
    assert refusal.value.code == "adapter-not-loaded"
    assert name in refusal.value.sentence


def test_a_tied_head_that_cannot_be_untied_is_refused(adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("t5", {"r": 4, "target_modules": ["q", "lm_head"], "task_type": "SEQ_2_SEQ_LM"})
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter, way="whole")
    assert refusal.value.code == "tied-weights"


def test_a_stack_is_not_merged_out_of_whole_models(
    adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    base, first = adapter_on("llama", LORA_VARIANTS["dora"], name="first")
    _, second = adapter_on("llama", LORA_VARIANTS["dora"], name="second", base=base, seed=2)
    with pytest.raises(RefusedError) as refusal:
        plan_of(first, further=(str(second),), recipe=Recipe(method="stack"), way="whole")
    assert refusal.value.code == "stack-not-streamed"


def test_a_weight_that_is_computed_from_others_is_refused(plan_of: Callable, tmp_path: Path) -> None:
    """Wav2Vec2's positional convolution has a weight norm: PEFT's merge is lost on it, and its tensors would be."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    convolutions = {"conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
    groups = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 1}
    model = Wav2Vec2Model(Wav2Vec2Config(**sizes, **convolutions, **groups, num_feat_extract_layers=2)).eval()
    fill(model, seed=0)
    model.save_pretrained(tmp_path / "base")
    tuned: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "pos_conv_embed.conv"]))
    perturb(tuned, seed=1, strength=0.1)
    tuned.save_pretrained(str(tmp_path / "adapter"))
    edit_config(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(RefusedError) as refusal:
        plan_of(tmp_path / "adapter")
    assert refusal.value.code == "module-not-plain"
    assert "pos_conv_embed.conv" in refusal.value.sentence
