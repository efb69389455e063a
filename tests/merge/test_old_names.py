"""Adapters and bases of image-text models from before transformers 4.52, of which PEFT today merges nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bot.errors import RefusedError
from tests.merge.oracle import compare, read_tensors
from tests.tiny.adapters import edit_config, rewrite_weights

# What the parts were called: today's prefix → the old one. The towers of CLIP and SigLIP had a level more, up to 4.57.
QWEN = [(r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual.")]
TOWER = (r"^(model\.)?(vision|image|video)_tower\.(?!vision_model)", r"\1\2_tower.vision_model.")
LLAVA = [
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (
        r"^model\.(vision_tower|image_tower|video_tower|vision_model|multi_modal_projector|image_newline)",
        r"\1",
    ),
]
OLD = {
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    **dict.fromkeys(("mllama", "internvl", "aria", "mistral3"), LLAVA),
}
TOWERS = ("gemma3_vl", "llava", "llava_next", "llava_onevision", "paligemma", "video_llava", "vipllava")
OLD |= {name: [*LLAVA, TOWER] for name in TOWERS}
QUICK = ("qwen2_vl", "llava_next")
EVERYWHERE = r".*(q_proj|v_proj|attn\.qkv|linear_1|fc1)"


def old(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def aged_adapter(adapter: Path, rules: list[tuple[str, str]], out: Path) -> Path:
    shutil.copytree(adapter, out)
    prefix = "base_model.model."
    rewrite_weights(
        out, lambda tensors: {prefix + old(k.removeprefix(prefix), rules): v for k, v in tensors.items()}
    )
    return out


def aged_base(base: Path, rules: list[tuple[str, str]], out: Path) -> Path:
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = {old(k, rules): v for k, v in read_tensors(base).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def check(architecture: str, config: dict[str, Any], rules: Any, tools: Any, *, ages: Any = None) -> Any:
    """Merges the adapter under today's names and under old ones, on the base and on an old one: all are the same."""
    adapter_on, merged, tmp_path = tools
    base, adapter = adapter_on(architecture, config)
    want, plan = merged(adapter, out=tmp_path / "want")
    difference = compare(architecture, base=base, adapter=adapter, out=want, plan=plan)
    assert difference.error < 2e-5
    aged = aged_adapter(adapter, rules, tmp_path / "aged")
    old_base = aged_base(base, rules, tmp_path / "old-base")
    tensors = {old(k, rules): v for k, v in read_tensors(want).items()}
    plans = []
    for number, (mine, theirs) in enumerate([(aged, base), (adapter, old_base), (aged, old_base)]):
        out, plan = merged(mine, base=str(theirs), out=tmp_path / f"out-{number}")
        found = {old(k, rules): v for k, v in read_tensors(out).items()}
        assert found.keys() == tensors.keys()
        different = [k for k in found if not torch.equal(found[k], tensors[k])]
        assert not different
        assert read_tensors(out).keys() == read_tensors(theirs).keys()
        plans.append(plan)
    assert plans[0].renamed
    assert any("names" in note for note in plans[0].notes)
    assert not plans[1].renamed
    return plans


def some(names: Iterable[str]) -> list[Any]:
    """The names as parameters, those that are not quick marked slow."""
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(names)]


@pytest.mark.parametrize("architecture", some(OLD))
def test_old_names_give_the_same_merge(
    architecture: str, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    config = {"r": 4, "lora_alpha": 8, "target_modules": EVERYWHERE}
    check(architecture, config, OLD[architecture], (adapter_on, merged, tmp_path))


@pytest.mark.parametrize("architecture", some(TOWERS))
def test_towers_between_4_52_and_5(
    architecture: str, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    config = {"r": 4, "lora_alpha": 8, "target_modules": EVERYWHERE}
    check(architecture, config, [TOWER], (adapter_on, merged, tmp_path))


def test_what_the_config_says_by_old_names_is_kept(
    adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """Ranks, alphas and targets anchored at old names; a scale lost on the way would not show in shapes."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    new = {"rank_pattern": {r"model\.language_model\.layers\.0\.self_attn\.q_proj": 2}}
    new["alpha_pattern"] = {r"^model\.language_model\.layers\.1\.self_attn\.\w_proj": 3}
    base, adapter = adapter_on("qwen2_vl", config | new)
    want, _ = merged(adapter, out=tmp_path / "want")
    aged = aged_adapter(adapter, QWEN, tmp_path / "aged")
    edit_config(
        aged,
        target_modules=r"^model\.layers\.\d+\.self_attn\.(q|v)_proj",
        rank_pattern={r"model\.layers\.0\.self_attn\.q_proj": 2},
        alpha_pattern={r"^model\.layers\.1\.self_attn\.\w_proj": 3},
    )
    out, plan = merged(aged, out=tmp_path / "out", validation="full")
    first, second = read_tensors(want), read_tensors(out)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert compare("qwen2_vl", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5
    assert {p.key for p in plan.patches if p.rule == "old-module-names"} == {
        "target_modules",
        "rank_pattern",
        "alpha_pattern",
    }


@pytest.mark.parametrize(
    ("more", "old_words"),
    [
        ({"exclude_modules": r".*vision_tower.*"}, {"exclude_modules": r"^vision_tower\.vision_model\..*"}),
        ({"modules_to_save": ["multi_modal_projector"]}, {"target_modules": r"^(?!model\.)(.*\.)?[qv]_proj"}),
        ({"trainable_token_indices": [5, 6]}, {"target_modules": r"^(?!model\.)(.*\.)?[qv]_proj"}),
    ],
)
def test_where_the_config_says_it_by_old_names_too(
    more: dict, old_words: dict, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """What is left out by an old name stays out, and what lies beside LoRA is no target of it."""
    base, adapter = adapter_on("llava", {"r": 4, "target_modules": ["q_proj", "v_proj"]} | more)
    aged = aged_adapter(adapter, OLD["llava"], tmp_path / "aged")
    edit_config(aged, **old_words)
    out, plan = merged(aged)
    assert plan.renamed
    assert compare("llava", base=base, adapter=adapter, out=out, plan=plan).error < 2e-5


def test_layers_of_vit_that_were_renamed(adapter_on: Callable, merged: Callable, tmp_path: Path) -> None:
    """query and value became q_proj and v_proj, so the targets have to change, too."""
    base, adapter = adapter_on("vit", {"r": 4, "target_modules": ["q_proj", "v_proj"]})
    rules = [
        (r"^vit\.layers\.(\d+)\.attention\.q_proj", r"vit.encoder.layer.\1.attention.attention.query"),
        (r"^vit\.layers\.(\d+)\.attention\.v_proj", r"vit.encoder.layer.\1.attention.attention.value"),
    ]
    aged = aged_adapter(adapter, rules, tmp_path / "aged")
    edit_config(aged, target_modules=["query", "value"])
    out, plan = merged(aged, validation="full")
    difference = compare("vit", base=base, adapter=adapter, out=out, plan=plan)
    assert difference.error < 2e-5
    assert difference.effect > 0.05
    assert len(plan.renamed) == 8


def test_both_names_at_once_are_refused(adapter_on: Callable, plan_of: Callable, tmp_path: Path) -> None:
    _, adapter = adapter_on("qwen2_vl", {"r": 4, "target_modules": ["q_proj"]})
    rewrite_weights(
        adapter, lambda tensors: tensors | {k.replace(".language_model.", "."): v for k, v in tensors.items()}
    )
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter)
    assert refusal.value.code == "contradiction"


def test_old_names_of_something_else_still_do_not_fit(adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("qwen2_vl", {"r": 4, "target_modules": ["q_proj"]})
    rewrite_weights(
        adapter,
        lambda tensors: {k.replace("model.language_model", "transformer"): v for k, v in tensors.items()},
    )
    with pytest.raises(RefusedError) as refusal:
        plan_of(adapter)
    assert refusal.value.code == "adapter-does-not-fit"
