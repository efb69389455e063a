"""Several adapters: PEFT's combinations, tensor by tensor and by logits; stacks against merges one after the other."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from bot import pipeline
from bot.errors import RefusedError
from bot.plan.recipe import COMBINATIONS
from bot.progress import Silent
from bot.request import MergeRequest, Recipe
from bot.settings import Settings
from tests.merge.oracle import float64_weights, read_tensors
from tests.merge.several import deltas, joint, one_after_the_other, several
from tests.tiny.adapters import TUNERS
from tests.tiny.models import inputs, load, logits

ATTENTION = ["q_proj", "v_proj"]
FIRST = {"r": 4, "lora_alpha": 8}
SECOND = {"r": 4, "lora_alpha": 3, "target_modules": [*ATTENTION, "down_proj"]}
WEIGHTS = (0.7, -0.3)


@pytest.fixture
def pair(adapter_on):
    """Two adapters by their configs; a number behind the name is the seed of their weights."""

    def make(*configs, architecture="llama", base=None):
        made = [
            adapter_on(architecture, config, name=f"adapter-{n}", seed=n + 1, base=base)
            for n, config in enumerate(configs)
        ]
        return made[0][0], [adapter for _, adapter in made]

    return make


@pytest.fixture
def together(merged):
    """Merges several adapters."""

    def merge(adapters, recipe, **more):
        first, *others = adapters
        return merged(first, further=tuple(map(str, others)), recipe=recipe, **more)

    return merge


def stack(*_):
    return Recipe(method="stack")


def options(method):
    sparse = {} if method in ("linear", "cat", "svd") else {"density": 0.6}
    return sparse | ({"majority_sign_method": "frequency"} if "ties" in method else {})


def largest(merged, base, wanted):
    """The largest error of a tensor against base + delta in float64; every changed tensor has a delta."""
    before, after = read_tensors(base), read_tensors(merged)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == set(wanted)
    return max(float((after[n] - before[n].double() - delta).abs().max()) for n, delta in wanted.items())


def quickly(names, *slow):
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


@pytest.mark.parametrize(
    "method", quickly(COMBINATIONS, "dare_linear_svd", "magnitude_prune_svd", "dare_ties", "magnitude_prune")
)
def test_a_combination_is_what_peft_makes_of_the_adapters(pair, together, method):
    base, adapters = pair(FIRST, SECOND)
    seed = {"seed": 7} if "dare" in method else {}
    recipe = Recipe(method=method, weights=WEIGHTS, **options(method), **seed)
    out, plan = together(adapters, recipe)
    live = joint(base, adapters, WEIGHTS, method=method, **options(method), **seed)
    assert largest(out, base, deltas(live)) < 2e-6
    batch = inputs("llama", base)
    want, got = logits(live, batch), logits(load(out, dtype=torch.float32), batch)
    effect = (want - logits(load(base, dtype=torch.float32), batch)).abs().max()
    assert (got - want).abs().max() < 1e-4 * effect
    assert (plan.recipe.weights, len(plan.adapters), plan.stages) == (WEIGHTS, 2, ())


def test_cat_is_the_weighted_sum_of_the_deltas_and_linear_is_not(pair, together, tmp_path):
    base, adapters = pair(FIRST, SECOND)
    before = {n: t.double() for n, t in read_tensors(base).items()}
    parts = [{n: w - before[n] for n, w in float64_weights(base, a).items()} for a in adapters]
    total = {
        n: sum(w * part[n] for w, part in zip(WEIGHTS, parts, strict=True) if n in part)
        for n in parts[0] | parts[1]
    }
    cat, _ = together(adapters, Recipe(method="cat", weights=WEIGHTS))
    assert largest(cat, base, total) < 1e-6
    linear, _ = together(adapters, Recipe(method="linear", weights=WEIGHTS), out=tmp_path / "linear")
    assert largest(linear, base, total) > 1e-3


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({**FIRST, "use_rslora": True}, SECOND),
        ({**FIRST, "layers_to_transform": [0]}, SECOND),
        ({**FIRST, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}}, {**SECOND, "r": 6}),
        ({**FIRST, "target_modules": "all-linear"}, {**SECOND, "r": 2, "use_rslora": True}),
        ({**FIRST, "init_lora_weights": "gaussian"}, {**SECOND, "exclude_modules": ["down_proj"]}),
    ],
    ids=["rslora", "some-layers", "patterns", "all-linear", "excluded"],
)
def test_cat_keeps_every_module_and_scale_of_both(pair, together, first, second):
    base, adapters = pair(first, second)
    before = {n: t.double() for n, t in read_tensors(base).items()}
    total = {}
    for weight, adapter in zip(WEIGHTS, adapters, strict=True):
        for name, tensor in float64_weights(base, adapter).items():
            total[name] = total.get(name, 0) + weight * (tensor - before[name])
    out, _ = together(adapters, Recipe(method="cat", weights=WEIGHTS))
    assert largest(out, base, total) < 1e-6


@pytest.mark.parametrize("method", ["cat", "linear", "svd", "ties_svd"])
def test_embeddings_are_combined_too(pair, together, method):
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "embed_tokens"]}
    base, adapters = pair(config, {**config, "lora_alpha": 2})
    out, _ = together(adapters, Recipe(method=method, weights=(1.0, 0.5), **options(method)))
    live = joint(base, adapters, (1.0, 0.5), method=method, **options(method))
    assert largest(out, base, deltas(live)) < 2e-6


def test_convolutions_and_transposed_layers_are_combined_too(pair, together):
    base, adapters = pair({"r": 2, "lora_alpha": 4}, {"r": 3, "lora_alpha": 4}, architecture="gpt2")
    out, _ = together(adapters, Recipe(method="svd", weights=(1.0, 0.5), svd_rank=5))
    live = joint(base, adapters, (1.0, 0.5), method="cat")
    batch = inputs("gpt2", base)
    want = logits(live, batch)
    assert (logits(load(out, dtype=torch.float32), batch) - want).abs().max() < 1e-4


def test_a_smaller_svd_rank_keeps_the_largest_part(pair, together):
    base, adapters = pair(FIRST, SECOND)
    out, _ = together(adapters, Recipe(method="svd", weights=(1.0, 1.0), svd_rank=3))
    live = joint(base, adapters, (1.0, 1.0), method="svd", svd_rank=3)
    assert largest(out, base, deltas(live)) < 2e-6


def test_one_adapter_with_a_weight_is_scaled(pair, together):
    base, adapters = pair(FIRST)
    before = {n: t.double() for n, t in read_tensors(base).items()}
    out, plan = together(adapters, Recipe(method="linear", weights=(0.25,)))
    total = {n: 0.25 * (w - before[n]) for n, w in float64_weights(base, adapters[0]).items()}
    assert largest(out, base, total) < 1e-6
    assert plan.further == ()


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_same_seed_gives_the_same_bytes(pair, together, tmp_path):
    _, adapters = pair(FIRST, SECOND)
    recipes = [Recipe(method="dare_linear", weights=(1.0, 1.0), density=0.5, seed=s) for s in (None, 0, 1)]
    made = [together(adapters, r, out=tmp_path / str(n)) for n, r in enumerate(recipes)]
    first, same, other = (digest(out) for out, _ in made)
    assert first == same != other
    keys = [plan.key for _, plan in made]
    assert keys[0] == keys[1] != keys[2]
    assert made[0][1].recipe.seed == 0


STACKS = {
    "lora, then lora": (FIRST, SECOND),
    "lora, then ia3": (
        FIRST,
        {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
    "dora, then lora": ({**FIRST, "use_dora": True}, SECOND),
    "lora, then dora": (FIRST, {**SECOND, "use_dora": True}),
    "oft, then loha": (
        {"peft_type": "OFT", "oft_block_size": 4, "r": 0, "target_modules": ATTENTION},
        {"peft_type": "LOHA", "r": 2, "alpha": 4, "target_modules": ATTENTION},
    ),
    "pissa, then lora": ({**FIRST, "init_lora_weights": "pissa"}, SECOND),
    "lora with a bias, then lora": ({**FIRST, "bias": "lora_only", "modules_to_save": ["lm_head"]}, SECOND),
    "lora, then pruned adalora": (FIRST, TUNERS["ADALORA.pruned"]),
    "three": (FIRST, {**SECOND, "use_dora": True}, {"r": 2, "target_modules": ["down_proj", "q_proj"]}),
}


PROVEN = ("lora, then ia3", "three")  # by answers, too: they take seconds


@pytest.mark.usefixtures("exact_svd")
@pytest.mark.parametrize(
    "name", quickly(STACKS, "oft, then loha", "dora, then lora", "lora, then pruned adalora", "three")
)
def test_a_stack_is_one_merge_after_the_other(pair, together, name):
    base, adapters = pair(*STACKS[name])
    out, plan = together(adapters, stack(), validation="full" if name in PROVEN else "tensors")
    wanted = one_after_the_other(base, adapters).state_dict()
    after = read_tensors(out)
    assert set(after) == set(read_tensors(base))
    assert max(float((after[n] - wanted[n]).abs().max()) for n in after) < 5e-6
    assert len(plan.adapters) == len(adapters)
    assert bool(plan.stages) == (name != "lora, then lora")


def test_a_stack_of_experts_that_lie_on_disk_one_by_one(pair, together):
    experts = {
        "r": 2,
        "lora_alpha": 4,
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    }
    both = {**experts, "target_modules": ["q_proj"]}
    base, adapters = pair({**experts, "target_modules": []}, both, architecture="qwen3_moe")
    out, plan = together(adapters, stack(), validation="full")
    methods = {b.method for b in plan.bindings}
    assert methods == {"stacked_lora", "stacked_lora_parameter_then_lora_parameter_converted"}
    batch = inputs("qwen3_moe", base)
    want = logits(one_after_the_other(base, adapters), batch)
    assert (want - logits(load(out, dtype=torch.float32), batch)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["lora, then lora", "lora, then dora"])
def test_a_stack_is_rounded_once(pair, together, base_of, name):
    base, adapters = pair(*STACKS[name], base=base_of("llama", dtype="bfloat16"))
    out, _ = together(adapters, stack(), validation="full" if "dora" in name else "none")
    exact = one_after_the_other(base, adapters).state_dict()
    for tensor, value in read_tensors(out).items():
        assert value.dtype == torch.bfloat16
        unit = torch.finfo(torch.bfloat16).eps * 2 ** torch.floor(torch.log2(exact[tensor].abs()))
        assert bool(((value.float() - exact[tensor]).abs() <= 0.501 * unit).all())


def test_a_head_that_the_first_unties_is_the_second_ones_base(pair, together, base_of):
    base = base_of("llama", tie=True)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "lm_head"]}
    base, adapters = pair(config, {**config, "lora_alpha": 3}, base=base)
    out, plan = together(adapters, stack(), validation="full")
    assert [a.name for a in plan.added] == ["lm_head.weight"]
    live = several(base, adapters)
    live.base_model.set_adapter(["a0", "a1"])
    batch = inputs("llama", base)
    assert (logits(live, batch) - logits(load(out, dtype=torch.float32), batch)).abs().max() < 1e-4


def test_a_larger_vocabulary_reaches_the_second(pair, together, base_of, tmp_path):
    base, adapters = pair(FIRST, SECOND)
    model = load(base, dtype=torch.float32)
    model.resize_token_embeddings(model.config.vocab_size + 3)
    grown = PeftModel.from_pretrained(model, str(adapters[0]))
    grown.save_pretrained(tmp_path / "grown", save_embedding_layers=True)
    edited = tmp_path / "grown/adapter_config.json"
    edited.write_text(json.dumps(json.loads(edited.read_text()) | {"base_model_name_or_path": str(base)}))
    out, plan = together([tmp_path / "grown", adapters[1]], stack(), validation="full")
    rows = load_file(out / "model.safetensors")["model.embed_tokens.weight"].shape[0]
    assert json.loads((out / "config.json").read_text())["vocab_size"] == rows
    assert {e.key for e in plan.config_edits} == {"vocab_size"}


def test_validate_proves_a_stack_and_finds_a_layer_that_is_not_merged(pair, together):
    _, adapters = pair(*STACKS["lora, then ia3"])
    out, _ = together(adapters, stack())
    request = MergeRequest(
        adapter=str(adapters[0]), further=(str(adapters[1]),), recipe=stack(), validation="tensors"
    )
    report = pipeline.validate(out, request, settings=Settings(isolation="none"), progress=Silent())
    assert (report.verdict, len(report.further), report.recipe) == ("passed", 1, stack())
    wrong = MergeRequest(
        adapter=str(adapters[1]), further=(str(adapters[0]),), recipe=stack(), validation="tensors"
    )
    with pytest.raises(Exception, match="changed"):  # IA3 first, then LoRA, is another model
        pipeline.validate(out, wrong, settings=Settings(isolation="none"), progress=Silent())


@pytest.mark.parametrize("second", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, "PSOFT"])
def test_what_starts_from_the_base_stands_first(pair, plan_of, second):
    config = (
        {"peft_type": second, "r": 4, "target_modules": ATTENTION}
        if second == "PSOFT"
        else {**FIRST, **second}
    )
    _, adapters = pair(FIRST, config)
    with pytest.raises(RefusedError) as caught:
        plan_of(adapters[0], further=(str(adapters[1]),), recipe=stack())
    assert caught.value.code == "stack-order"
