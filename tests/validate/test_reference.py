"""The float64 reference against PEFT's merge, for every formula and every way to store a weight."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import nn

from bot.records import Binding
from bot.validate.reference import NoReferenceError, scaling
from bot.validate.rounding import ulp
from tests.tiny.adapters import LORA_VARIANTS, SUITS, perturb
from tests.validate.factory import make, peft_merge, reference

VARIANTS = [
    "plain",
    "odd_scale",
    "rslora",
    "patterns",
    "pattern_regex",
    "bias_all",
    "dora",
    "dora_rslora_patterns",
    "dora_embedding",
    "embedding",
    "lm_head",
    "save_lm_head",
    "conv1d_fan_in_fan_out",
    "seq_cls",
]
QUICK = ("odd_scale", "patterns", "dora_embedding", "lm_head", "conv1d_fan_in_fan_out", "seq_cls")


@pytest.mark.parametrize(
    "variant", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_reference_is_what_peft_merges(tmp_path: Path, variant: str) -> None:
    architecture = {"seq_cls": "llama_seqcls"}.get(variant) or SUITS.get(variant, "llama")
    case = make(tmp_path, architecture, LORA_VARIANTS[variant])
    merged = peft_merge(case.base, case.adapter)
    report = case.report("full")
    assert report.verdict == "passed", [c for c in report.checks if c.verdict == "failed"]
    assert len(case.plan.bindings) > 2
    assert all(torch.isfinite(merged[b.parameter]).all() for b in case.plan.bindings)


@pytest.mark.parametrize("dora", [pytest.param(False, marks=pytest.mark.slow), True])
def test_square_conv1d_is_transposed_by_its_class(tmp_path: Path, dora: bool) -> None:
    config = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["attn.c_proj"],
        "use_dora": dora,
        "task_type": "CAUSAL_LM",
    }
    case = make(tmp_path, "gpt2", config)
    config = case.plan.adapter_config
    assert {b.shape for b in case.plan.bindings} == {(32, 32)}
    for lie in (True, False):  # fan_in_fan_out is often wrong in the config; PEFT goes by the class
        case.plan.adapter_config["fan_in_fan_out"] = lie
        assert case.failed("full") == set()


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions(dora: bool, kernel: int) -> None:
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(6, 10, kernel))
    config = LoraConfig(r=4, lora_alpha=3, target_modules=["conv"], use_dora=dora)
    tuned = get_peft_model(model, config)
    perturb(tuned, seed=0)
    source = tuned.base_model.model.conv.base_layer.weight.detach().clone()
    adapter = {n: p.detach().clone() for n, p in tuned.named_parameters() if "lora_" in n}
    merged = tuned.merge_and_unload().conv.weight.detach()
    value, bound = reference(
        binding(shape=tuple(source.shape), method="dora" if dora else "lora", adapter=tuple(adapter)),
        source=source,
        adapter=adapter,
        config={"r": 4, "lora_alpha": 3},
    )
    assert ((merged.double() - value).abs() <= bound).all()
    assert (bound < 1e-5).all()


def binding(*, shape: tuple[int, ...], method: str, adapter: tuple[str, ...] = ()) -> Binding:
    return Binding(
        tensor="conv.weight",
        source="conv.weight",
        parameter="conv.weight",
        method=method,
        adapter=adapter,
        shape=shape,
        dtype="F32",
    )


def test_lora_bias_is_scaled() -> None:
    value, _ = reference(
        binding(shape=(3,), method="lora_bias"),
        source=torch.ones(3),
        adapter={"base_model.model.conv.lora_B.bias": torch.tensor([1.0, 2.0, 3.0])},
        config={"r": 4, "lora_alpha": 2, "use_rslora": True},
    )
    assert value.tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(("rows", "wanted"), [(3, 9.0), (5, 2.0)])
def test_a_stored_base_layer_is_the_start_where_tokens_were_added(rows: int, wanted: float) -> None:
    """Elsewhere it is the base itself: the copy may have fewer digits."""
    names = [
        f"base_model.model.conv.{n}" for n in ("lora_embedding_A", "lora_embedding_B", "base_layer.weight")
    ]
    tensors = [torch.ones(1, 5), torch.ones(2, 1), torch.full((5, 2), 7.0)]
    value, _ = reference(
        binding(shape=(5, 2), method="lora"),
        source=torch.zeros(rows, 2),
        adapter=dict(zip(names, tensors, strict=True)),
        config={"r": 1, "lora_alpha": 2},
    )
    assert (value == wanted).all()


@pytest.mark.parametrize(
    ("source", "config", "adapter", "words"),
    [
        (torch.zeros(4, 6), {"r": 3}, {"x.lora_A.weight": (2, 6), "x.lora_B.weight": (4, 2)}, "rank"),
        (torch.zeros(4, 6), {"r": 2}, {"x.lora_A.weight": (2, 5), "x.lora_B.weight": (4, 2)}, "fit"),
        (torch.zeros(4, 6), {"r": 2}, {"x.lora_A.weight": (2, 6)}, "lora_B"),
        (None, {"r": 2}, {"x.lora_A.weight": (2, 6), "x.lora_B.weight": (4, 2)}, "source"),
        (torch.zeros(4, 5), {"r": 2}, {"x.lora_A.weight": (2, 6), "x.lora_B.weight": (4, 2)}, "numbers"),
    ],
)
def test_what_fits_no_formula_is_said(source, config, adapter, words) -> None:
    tensors = {name: torch.ones(shape) for name, shape in adapter.items()}
    with pytest.raises(NoReferenceError, match=words):
        reference(binding(shape=(4, 6), method="lora"), source=source, adapter=tensors, config=config)


@pytest.mark.parametrize(
    "key", ["q_proj", r"^model\.layers\.1\.\w+\.q_proj", "layers.0.self_attn.q_proj", "proj"]
)
@pytest.mark.parametrize(
    "module", ["model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.q_proj", "q_proj"]
)
def test_patterns_match_as_in_peft(key: str, module: str) -> None:
    patterns = {"nothing": 5, key: 2}
    expected = 8 / patterns.get(get_pattern_key(patterns.keys(), module), 4)
    assert scaling(module, config={"r": 4, "lora_alpha": 8, "rank_pattern": patterns}, rank=None) == expected


@pytest.mark.parametrize(
    ("name", "dtype"), [("F32", torch.float32), ("BF16", torch.bfloat16), ("F16", torch.float16)]
)
def test_ulp_is_the_distance_to_the_next_number(name: str, dtype: torch.dtype) -> None:
    value = torch.tensor([1.0, 1.5, 3.99, 1e-3, 300.0, 0.0], dtype=dtype)
    following = torch.nextafter(value, torch.tensor(float("inf"), dtype=dtype))
    assert np.array_equal(
        ulp(value.double().numpy(), dtype=name), (following.double() - value.double()).numpy()
    )


def test_bound_holds_for_float32_and_not_for_bfloat16_deltas() -> None:
    """A delta rounded to bfloat16 before it is added is the usual sloppy merge: the bound tells it from a good one."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(16, 256, generator=generator), torch.randn(128, 16, generator=generator) * 0.01
    weight = torch.randn(128, 256, generator=generator).bfloat16()
    names = ("x.lora_A.weight", "x.lora_B.weight")
    value, bound = reference(
        Binding(
            tensor="x.weight", source="x.weight", parameter="x.weight", method="lora", adapter=names,
            shape=(128, 256), dtype="BF16",
        ),
        source=weight, adapter=dict(zip(names, (a, b), strict=True)), config={"r": 16, "lora_alpha": 7},
    )  # fmt: skip
    delta = (b @ a) * (7 / 16)
    good, sloppy = (weight.float() + delta).bfloat16(), weight + delta.bfloat16()
    assert ((good.double() - value).abs() <= bound).all()
    assert ((sloppy.double() - value).abs() > bound).float().mean() > 0.02


def test_adapter_tensors_are_all_used(tmp_path: Path) -> None:
    case = make(tmp_path, "llama", LORA_VARIANTS["dora"])
    used = {name for b in case.plan.bindings for name in b.adapter}
    assert used == set(load_file(case.adapter / "adapter_model.safetensors"))
