"""More of what other tools make: experts, pickles, pairs, paddings; the cause of each fault is named."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny.models import load
from tests.validate.asking import ask
from tests.validate.factory import edit
from tests.validate.other_tools import Elsewhere, make, tensors

GATE, UP = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
EXPERT = "model.layers.1.mlp.experts.2"


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return make(tmp_path_factory.mktemp("single"), "llama", "rslora")


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """An adapter on two projections of the attention, which saves the head."""
    return make(tmp_path_factory.mktemp("attention"), "llama", "save_lm_head")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    """Stacks of experts, which the files hold one by one."""
    return make(tmp_path_factory.mktemp("experts"), "qwen3_moe", "target_parameters")


def asked(case: Elsewhere) -> str:
    """What check `modules` says, which the level `full` adds."""
    return ask(case.base, case.adapter, case.merged, plan=case.plan()).detail


def swap(case: Elsewhere, one: str, other: str) -> None:
    edit(case.merged, lambda ts: ts | {one: ts[other], other: ts[one]})


# experts


def test_a_good_merge_of_experts_passes(experts: Elsewhere) -> None:
    assert f"{EXPERT}.gate_proj.weight" in tensors(experts.merged)
    assert experts.failed("full") == {}


def test_experts_that_were_stored_stacked(experts: Elsewhere, tmp_path: Path) -> None:
    case = experts.copy(tmp_path)
    model = load(case.merged)
    for path in case.merged.glob("*.safetensors*"):
        path.unlink()
    model.save_pretrained(case.merged, save_original_format=False)
    told = case.failed()
    name = "model.layers.0.mlp.experts"
    assert told["keys"].startswith(
        f"24 tensors of the base are stored in another form: {name}.0.down_proj.weight within {name}.down_proj."
        " transformers loads both alike; "
    )


def test_the_delta_of_one_expert_is_missing(experts: Elsewhere, tmp_path: Path) -> None:
    case = experts.copy(tmp_path)
    case.times(0, only=f"{EXPERT}.")
    names = ", ".join(f"{EXPERT}.{part}_proj.weight" for part in ("down", "gate", "up"))
    told = case.failed()
    assert told["changed"].startswith(f"3 of 28 changed tensors ({names}): the delta is missing; off by ")
    assert "model.layers.1.mlp.experts.gate_up_proj: off by " in asked(case)


def test_two_experts_in_each_others_place(experts: Elsewhere, tmp_path: Path) -> None:
    case = experts.copy(tmp_path)
    swap(case, f"{EXPERT}.up_proj.weight", "model.layers.1.mlp.experts.0.up_proj.weight")
    words = "it holds what belongs into mlp.experts.0.up_proj.weight; off by "
    assert f"{EXPERT}.up_proj.weight: {words}" in case.failed()["changed"]


# the order of tensors


def test_gate_and_up_in_each_others_place(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    swap(case, GATE, UP)
    told = case.failed()
    assert told.keys() == {"changed"}
    for name, other in ((GATE, "up"), (UP, "gate")):
        assert f"{name}: it holds what belongs into mlp.{other}_proj.weight; off by " in told["changed"]


def test_gate_and_up_in_each_others_place_where_the_adapter_leaves_them_alone(
    attention: Elsewhere, tmp_path: Path
) -> None:
    case = attention.copy(tmp_path)
    swap(case, GATE, UP)
    told = case.failed()
    assert told.keys() == {"untouched"}
    words = "it holds what belongs into mlp"
    assert told["untouched"] == (
        f"Not the base's: {GATE} ({words}.up_proj.weight), {UP} ({words}.gate_proj.weight)."
    )


def test_the_delta_is_there_twice_in_one_module_only(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    case.times(2, only=GATE)
    told = case.failed()
    assert told["changed"].startswith(f"{GATE}: the delta is there 2.00 times (added twice); off by ")
    found = re.match(rf"{GATE.removesuffix('.weight')}: off by 0\.\d+ of its answer where F32 allows \S+, "
                     r"the delta is there ([\d.]+) times\.$", asked(case))  # fmt: skip
    assert float(found[1]) == pytest.approx(2, abs=0.01)


# files


def test_weights_that_are_only_a_pickle(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    everything = tensors(case.merged)
    for path in case.merged.glob("*.safetensors*"):
        path.unlink()
    torch.save(everything, case.merged / "pytorch_model.bin")
    told = case.failed()
    assert told.keys() == {"files"}
    assert "has only pickle weights (pytorch_model*.bin), a format that can carry code" in told["files"]


def test_shards_without_their_index(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    (case.merged / "model.safetensors.index.json").unlink()
    count = len(list(case.merged.glob("*.safetensors")))
    assert case.failed() == {"index": f"{count} shards have no model.safetensors.index.json."}


def test_a_generation_config_that_is_lost_or_does_not_load(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    path = case.merged / "generation_config.json"
    path.unlink()
    assert case.failed("structure") == {"sidecars": "generation_config.json is missing."}
    path.write_text("[")
    assert case.failed("structure").keys() == {"sidecars", "generation_config"}


# heads and vocabulary


def test_only_the_head_of_a_tied_pair(tmp_path: Path) -> None:
    case = make(tmp_path, "llama_tied", "plain")
    edit(case.merged, lambda ts: {HEAD if n == EMBED else n: t for n, t in ts.items()})
    told = case.failed()
    assert told["ties"] == (
        f"{HEAD} is stored and {EMBED} is not, which the base stores for both:"
        " transformers loads it, a loader that looks for that name finds nothing."
    )
    assert told["keys"] == f"Missing: {EMBED}. Unexpected: {HEAD}."


def test_embeddings_that_were_padded(single: Elsewhere, tmp_path: Path) -> None:
    case = single.copy(tmp_path)
    model = load(case.merged)
    model.resize_token_embeddings(pad_to_multiple_of=256)
    for path in case.merged.glob("*.safetensors*"):
        path.unlink()
    model.save_pretrained(case.merged)
    told = case.failed()
    assert told["vocabulary"] == (
        "The embedding has 512 rows and the base's has 384: it was resized (as pad_to_multiple_of does),"
        " which the adapter does not ask for."
    )
    assert told["config"] == "Differs from the base's without a plan: vocab_size."
    assert told.keys() == {"vocabulary", "config", "shapes", "untouched"}


def test_modules_that_the_adapter_saves_are_forgotten(attention: Elsewhere, tmp_path: Path) -> None:
    case = attention.copy(tmp_path)
    head = load_file(case.base / "model.safetensors")[HEAD]
    edit(case.merged, lambda ts: ts | {HEAD: head})
    told = case.failed()
    assert told["changed"].startswith(f"{HEAD}: it is still the base's, not the adapter's; off by ")
    assert "lm_head: off by " in asked(case)
