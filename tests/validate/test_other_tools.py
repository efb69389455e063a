"""What `validate` says of merges that another tool made: the good ones pass, of each broken one the cause is named."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

from bot.serial import to_json
from tests.tiny.adapters import LORA_VARIANTS, edit_config, rewrite_weights, save_adapter
from tests.tiny.models import load, save_base
from tests.validate.factory import edit, put
from tests.validate.other_tools import Elsewhere, make, peft_merge, tensors

Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ALL = "All 14 changed tensors: "


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """rsLoRA (r=4, so that its scale is twice LoRA's) on every linear layer, float32."""
    return make(tmp_path_factory.mktemp("single"), "llama", "rslora")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """The same in bfloat16."""
    return make(tmp_path_factory.mktemp("half"), "llama", "rslora", dtype="bfloat16")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """A model whose head is its embeddings, in bfloat16."""
    return make(tmp_path_factory.mktemp("tied"), "llama_tied", "plain", dtype="bfloat16")


# good merges


@pytest.mark.parametrize(
    "name", ["single", *(pytest.param(n, marks=pytest.mark.slow) for n in ("half", "tied"))]
)
def test_peft_merges_pass_whatever_their_files_are_called(request: pytest.FixtureRequest, name: str) -> None:
    case = request.getfixturevalue(name)
    files = [[p.name for p in folder.glob("*.safetensors")] for folder in (case.base, case.merged)]
    assert len(files[0]) < len(files[1])
    report = case.report("full")
    assert [c for c in report.checks if c.verdict != "passed"] == []
    assert not (case.merged / "merge_report.json").exists()


@pytest.mark.parametrize(
    ("architecture", "variant"), [("gpt2", "plain"), ("qwen2", "dora"), ("llama", "embedding_and_head")]
)
def test_other_models_and_variants_pass(tmp_path: Path, architecture: str, variant: str) -> None:
    assert make(tmp_path, architecture, variant, dtype="bfloat16").failed() == {}


def test_a_tokenizer_that_was_written_anew_is_its_source_still(single: Elsewhere) -> None:
    name = "tokenizer_config.json"
    assert (single.merged / name).read_bytes() != (single.base / name).read_bytes()
    assert single.check("sidecars").figure.endswith("1 written anew")


def test_names_that_load_as_the_same_are_the_same(tmp_path: Path) -> None:
    """openai-community/gpt2 stores `h.0.…`; PEFT and transformers save `transformer.h.0.…`."""
    case = make(tmp_path, "gpt2", "plain")
    edit(case.base, lambda ts: {n.removeprefix("transformer."): t for n, t in ts.items()})
    report = case.report("full")
    assert [c for c in report.checks if c.verdict != "passed"] == []
    assert "transformer.h.0.attn.c_attn.bias for h.0.attn.c_attn.bias" in report.check("keys").detail
    case.times(2)
    assert case.failed()["changed"].startswith("All 8 changed tensors: the delta is there 2.00 times")


def test_a_head_that_is_written_out_beside_its_embeddings_is_no_fault(
    tied: Elsewhere, tmp_path: Path
) -> None:
    case = tied.copy(tmp_path)
    edit(case.merged, lambda ts: ts | {HEAD: ts[EMBED].clone()})
    assert case.failed() == {}
    assert case.check("keys").detail.endswith(f"Written out beside what they share: {HEAD}.")


def test_roundings_of_pefts_own_merge_are_told_and_allowed_but_not_to_us(
    half: Elsewhere, tmp_path: Path
) -> None:
    """`safe_merge` rounds the delta before it is added."""
    case = replace(half, merged=peft_merge(half.base, half.adapter, tmp_path / "safe", safe=True))
    check = case.check("changed")
    assert check.verdict == "passed"
    assert "within the rounding of PEFT's own merge in BF16: " in check.detail
    assert re.search(
        r"numbers of 14 tensors were rounded more than once, by up to [01]\.\d\d ulp off\.", check.detail
    )
    (case.merged / "merge_plan.json").write_text(to_json(case.plan()))  # as if this bot had merged it
    assert case.failed()["changed"].startswith(
        f"{ALL}the delta is there once, but it was rounded more than once"
    )


# the delta


WHOLE = {
    "twice": (2.0, "the delta is there 2.00 times (added twice)"),
    "three times": (3.0, "the delta is there 3.00 times (added 3 times)"),
    "subtracted": (-1.0, "the delta is there -1.00 times (subtracted)"),
    "missing": (0.0, "the delta is missing"),
    "rsLoRA's scale": (
        0.5,
        "the delta is there 0.50 times (rsLoRA's scale forgotten: alpha/r in place of alpha/√r)",
    ),
    "no scale": (0.25, "the delta is there 0.25 times (added without its scale)"),
    "odd": (0.7, "the delta is there 0.70 times (no cause that is known here)"),
}


@pytest.mark.parametrize("name", ["single", "half"])
@pytest.mark.parametrize("breakage", WHOLE)
def test_a_wrong_amount_of_delta_in_all_tensors_is_one_sentence(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, breakage: str
) -> None:
    case = request.getfixturevalue(name).copy(tmp_path)
    factor, words = WHOLE[breakage]
    case.times(factor)
    failed = case.failed()
    assert failed.keys() == ({"changed", "effect"} if factor == 0 else {"changed"})
    found = re.fullmatch(
        re.escape(ALL + words) + r"; off by up to ([\d.]+)% of its size, in \S+\.", failed["changed"]
    )
    assert found, failed["changed"]
    assert float(found[1]) == pytest.approx(
        10 * abs(factor - 1), rel=0.1
    )  # the delta is a tenth of its weight


@pytest.mark.parametrize("name", ["single", "half"])
def test_merged_equals_base_has_a_name_of_its_own(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    case = request.getfixturevalue(name).copy(tmp_path)
    case.times(0)
    report = case.report("full")
    first = next(c for c in report.checks if c.verdict == "failed")
    assert (first.name, first.detail.partition(":")[0]) == ("effect", "Merged equals base")
    assert report.check("unlike_base").verdict == "failed"


@pytest.mark.parametrize("name", ["single", "half"])
def test_tensors_are_named_by_their_causes(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    case = request.getfixturevalue(name).copy(tmp_path)
    case.times(0, only="layers.0.self_attn")
    case.times(2, only=Q)
    told = case.failed()
    assert told.keys() == {"changed"}
    layer = "model.layers.0.self_attn"
    assert told["changed"].startswith(
        f"4 of 14 changed tensors ({layer}.k_proj.weight, {layer}.o_proj.weight, {layer}.q_proj.weight and 1 more):"
        f" the delta is missing; off by up to 10% of its size, in {layer}."
    )
    last = f" {Q}: the delta is there 2.00 times (added twice); off by "
    assert re.search(re.escape(last) + r"(9\.9|10)% of its size\.$", told["changed"])


def test_rslora_where_it_does_not_belong(tmp_path: Path) -> None:
    case = make(tmp_path, "llama", {"r": 9, "lora_alpha": 18, "task_type": "CAUSAL_LM"})
    other = Path(shutil.copytree(case.adapter, tmp_path / "other"))
    edit_config(other, use_rslora=True)
    case = replace(case, merged=peft_merge(case.base, other, tmp_path / "wrong"))
    mistaken = "scaled by alpha/√r as rsLoRA is, which this adapter is not: alpha/r is right"
    assert case.failed()["changed"].startswith(
        f"{ALL}the delta is there 3.00 times (added 3 times or {mistaken}); "
    )


def test_patterns_that_were_ignored(tmp_path: Path) -> None:
    case = make(tmp_path, "llama", "patterns")
    other = Path(shutil.copytree(case.adapter, tmp_path / "other"))
    edit_config(other, alpha_pattern={})
    case = replace(case, merged=peft_merge(case.base, other, tmp_path / "wrong"))
    names = ", ".join(f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1))
    words = f"2 of 14 changed tensors ({names}): the delta is there 2.67 times (alpha_pattern ignored); "
    assert case.failed()["changed"].startswith(words)


def test_the_magnitude_of_dora_is_left_out(tmp_path: Path) -> None:
    case = make(tmp_path, "llama", "dora", dtype="bfloat16")
    other = Path(shutil.copytree(case.adapter, tmp_path / "other"))
    edit_config(other, use_dora=False)
    rewrite_weights(other, lambda ts: {n: t for n, t in ts.items() if "magnitude" not in n})
    case = replace(case, merged=peft_merge(case.base, other, tmp_path / "wrong"))
    words = "the delta was added as plain LoRA, DoRA's magnitude was left out; "
    assert case.failed()["changed"].startswith(ALL + words)


def test_a_delta_that_was_added_transposed(single: Elsewhere, tmp_path: Path) -> None:
    case, before = single.copy(tmp_path), tensors(single.base)
    put(case.merged, Q, lambda t: before[Q] + (t - before[Q]).T)
    assert case.failed()["changed"].startswith(f"{Q}: the delta was added transposed; ")


def test_a_saved_module_that_was_not_put_in(tmp_path: Path) -> None:
    case = make(tmp_path, "llama", "save_lm_head")
    case.times(0, only=HEAD)
    told = case.failed()
    assert told.keys() == {"changed"}
    assert told["changed"].startswith(f"{HEAD}: it is still the base's, not the adapter's; off by ")


def test_another_adapter(single: Elsewhere, tmp_path: Path) -> None:
    keys = LORA_VARIANTS["rslora"]
    other = save_adapter(tmp_path / "other", single.base, config=keys, architecture="llama", seed=9)
    told = replace(single, adapter=other).failed()
    assert told.keys() == {"changed"}
    words = "other numbers than base + delta (the delta is there "
    assert told["changed"].startswith(ALL + words)


def test_another_base(single: Elsewhere, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", "llama", seed=5)
    told = replace(single, merged=peft_merge(base, single.adapter, tmp_path / "merged")).failed()
    assert told.keys() == {"untouched", "changed"}
    assert told["untouched"].endswith(" So many differ that this has another base, or was trained further.")
    assert told["changed"].startswith(f"{ALL}other numbers than base + delta")


def test_a_few_wrong_numbers(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    places = (torch.tensor([3, 4]), torch.tensor([5, 6]))
    put(case.merged, Q, lambda t: t.index_put_(places, torch.tensor(9.0)))
    assert case.failed()["changed"].startswith(f"{Q}: 2 of 1,024 numbers looked at are wrong; off by ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite(half: Elsewhere, tmp_path: Path, value: float) -> None:
    case = half.copy(tmp_path)
    put(case.merged, Q, lambda t: t.index_fill(0, torch.tensor([3]), value))
    assert case.failed() == {
        "changed": f"{Q}: 32 numbers are NaN or infinite.",
        "finite": f"NaN or infinite where base + adapter is not: {Q} (32 elements).",
    }


# precision


@pytest.mark.parametrize(
    "options", [{"low_cpu_mem_usage": True}, {"dtype": torch.float16, "saved": torch.bfloat16}]
)
def test_shorter_arithmetic_is_told_apart_from_a_wrong_delta(half, tmp_path, options) -> None:
    case = replace(half, merged=peft_merge(half.base, half.adapter, tmp_path / "merged", **options))
    told = case.failed()
    assert told.keys() == {"changed"}
    words = "the delta is there once, but it was rounded more than once, or computed in a precision shorter"
    assert told["changed"].startswith(ALL + words)
    assert re.search(
        r"; off by up to 0\.\d+% of its size, in \S+, a number by up to [\d.]+ ulp\.$", told["changed"]
    )


def test_a_merge_in_bfloat16_that_was_saved_as_float32(single: Elsewhere, tmp_path: Path) -> None:
    """The dtype is the planned one, the numbers are not."""
    options = {"dtype": torch.bfloat16, "saved": torch.float32}
    told = replace(
        single, merged=peft_merge(single.base, single.adapter, tmp_path / "merged", **options)
    ).failed()
    assert told.keys() == {"untouched", "changed"}
    words = "the delta is there once, but every number is one of BF16: it was merged in that precision; "
    assert told["changed"].startswith(ALL + words)


@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [
        ("single", torch.bfloat16, "All 21 tensors are BF16 instead of F32."),
        ("half", torch.float16, "All 21 tensors are F16 instead of BF16."),
        ("half", torch.float32, "All 21 tensors are F32 instead of BF16."),
    ],
)
def test_another_dtype_is_one_fault_and_hides_no_other(request, tmp_path, name, dtype, words) -> None:
    good = request.getfixturevalue(name)
    case = replace(good, merged=peft_merge(good.base, good.adapter, tmp_path / "merged", saved=dtype))
    assert case.failed() == {"dtypes": words}
    case.times(2)
    assert case.failed()["changed"].startswith(f"{ALL}the delta is there 2.00 times (added twice)")


def test_one_tensor_of_another_dtype(half: Elsewhere, tmp_path: Path) -> None:
    case = half.copy(tmp_path)
    put(case.merged, Q, lambda t: t.half())
    assert case.failed() == {"dtypes": f"{Q} is F16 instead of BF16."}


# heads and vocabulary


def test_the_delta_of_a_tied_head_is_lost(tmp_path: Path) -> None:
    """PEFT merges it into the embeddings, and saves them as tied as before."""
    told = make(tmp_path, "llama_tied", "lm_head", dtype="bfloat16").failed()
    assert told["ties"] == (
        f"The adapter changes {HEAD}, but config.json ties it to {EMBED}: its delta is in {EMBED} instead."
    )
    assert told["keys"] == f"Missing: {HEAD}."
    assert told["config"] == "tie_word_embeddings is True instead of False."
    assert told["untouched"].startswith(f"Not the base's: {EMBED} (")


def test_a_tied_head_with_other_numbers(tied: Elsewhere, tmp_path: Path) -> None:
    case = tied.copy(tmp_path)
    edit(case.merged, lambda ts: ts | {HEAD: ts[EMBED].flip(0)})
    assert case.failed() == {
        "ties": f"{HEAD} is stored with other numbers than {EMBED}, which it shares in the base.",
        "keys": f"Unexpected: {HEAD}.",
    }


def test_a_tied_head_is_untied_and_dropped(tied: Elsewhere, tmp_path: Path) -> None:
    case = tied.copy(tmp_path)
    case.config(tie_word_embeddings=False)
    told = case.failed()
    assert told["ties"] == f"config.json does not tie {HEAD} to {EMBED}, and it has no tensor: it is lost."


def test_an_untied_head_is_tied_and_dropped(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    edit(case.merged, lambda ts: {n: t for n, t in ts.items() if n != HEAD})
    case.config(tie_word_embeddings=True)
    told = case.failed()
    lost = f"the base's own {HEAD} is lost."
    assert told["ties"] == f"config.json ties {HEAD} to {EMBED} and the base's does not: {lost}"
    assert told["keys"] == f"Missing: {HEAD}."


def test_a_vocabulary_that_was_shrunk(half: Elsewhere, tmp_path: Path) -> None:
    case = half.copy(tmp_path)
    edit(case.merged, lambda ts: {n: t[:380] if n in (EMBED, HEAD) else t for n, t in ts.items()})
    case.config(vocab_size=380)
    told = case.failed()
    words = "The embedding has 380 rows and the base's has 384: the vocabulary was shrunk."
    assert told["vocabulary"].startswith(words)
    assert told.keys() == {"vocabulary", "shapes", "config", "untouched"}


# tensors and files


def test_tensors_missing_and_unexpected(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    extra = {"extra": torch.ones(2)}
    edit(case.merged, lambda ts: {n: t for n, t in ts.items() if n not in (Q, NORM)} | extra)
    told = case.failed()
    assert told["keys"] == f"Missing: {NORM}, {Q}. Unexpected: extra."
    assert told["changed"] == f"{Q}: missing."
    assert told["untouched"] == f"Not the base's: {NORM} (missing)."


def test_a_model_that_was_never_merged(single: Elsewhere, tmp_path: Path) -> None:
    """`get_peft_model(…)` saved with its layers still wrapped."""
    tuned = PeftModel.from_pretrained(load(single.base), str(single.adapter))
    tuned.base_model.model.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(single.base).save_pretrained(tmp_path / "merged")
    case = replace(single, merged=tmp_path / "merged")
    words = "These are the tensors of an unmerged PEFT model: it was saved without merging. Missing: "
    assert case.failed()["keys"].startswith(words)
    assert case.check("effect").verdict == "skipped"  # that merged equals base is not known


def test_names_with_the_wrapper_of_peft(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    edit(case.merged, lambda ts: {f"base_model.model.{n}": t for n, t in ts.items()})
    words = "21 names begin with base_model.model., which no loader takes off. Missing: "
    assert case.failed()["keys"].startswith(words)


def leave(name: str) -> Callable[[Elsewhere], object]:
    return lambda case: shutil.copy(case.adapter / name, case.merged / name)


def change(name: str, **changes: object) -> Callable[[Elsewhere], object]:
    return lambda case: case.config(name, **changes)


def add_a_token(case: Elsewhere) -> None:
    tokenizer = AutoTokenizer.from_pretrained(case.merged)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(case.merged)


FILES: dict[str, tuple[Callable[[Elsewhere], object], dict[str, str]]] = {
    "adapter config left": (
        leave("adapter_config.json"),
        {"leftovers": "adapter_config.json would apply the adapter a second time."},
    ),
    "adapter weights left": (
        leave("adapter_model.safetensors"),
        {"leftovers": "adapter_model.safetensors would apply the adapter a second time."},
    ),
    "chat template": (
        lambda case: (case.merged / "chat_template.jinja").write_text("{{ 1 }}"),
        {
            "sidecars": "chat_template.jinja differs from the base's.",
            "chat_template": "The chat template differs from the source's.",
        },
    ),
    "token added": (
        add_a_token,
        {"tokenizer": "The vocabulary has 385 entries instead of the source's 384, or other ones."},
    ),
    "special tokens": (
        change("tokenizer_config.json", eos_token="<pad>"),
        {"tokenizer": "The special tokens differ."},
    ),
    "padding side": (
        change("tokenizer_config.json", padding_side="left"),
        {"tokenizer": "Loaded, it differs from its source in padding_side."},
    ),
    "lower case": (
        change("tokenizer.json", normalizer={"type": "Lowercase"}),
        {"tokenizer": "'The quick brown fox, 12 + 34 = 46!' is tokenized differently."},
    ),
    "generation config": (
        change("generation_config.json", eos_token_id=7),
        {"sidecars": "generation_config.json differs from the base's."},
    ),
    "config": (
        change("config.json", rms_norm_eps=0.1),
        {"config": "Differs from the base's without a plan: rms_norm_eps."},
    ),
}


@pytest.mark.parametrize("breakage", FILES)
def test_files(half: Elsewhere, tmp_path: Path, breakage: str) -> None:
    case = half.copy(tmp_path)
    act, words = FILES[breakage]
    act(case)
    told = case.failed("structure")
    for name, said in words.items():
        assert said in told[name]
    assert told.keys() <= words.keys() | {"sidecars", "vocabulary"}
