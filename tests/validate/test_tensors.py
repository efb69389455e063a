"""Each way to break the tensors of a good merge, and the check that must say so."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bot.progress import Silent
from bot.records import Binding, ConfigEdit
from bot.validate.tensors import check_tensors
from tests.tiny.adapters import LORA_VARIANTS, live, save_adapter
from tests.tiny.models import save_base
from tests.validate.factory import Case, again, assemble, edit, flip_bit, make, put

Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
MAYBE = {"answers", "continuations"}  # another delta need not change what comes first


@pytest.mark.parametrize("name", ["plain", "half", pytest.param("faint", marks=pytest.mark.slow)])
def test_good_merge_passes(request: pytest.FixtureRequest, name: str) -> None:
    report = request.getfixturevalue(name).report("full")
    assert [c for c in report.checks if c.verdict != "passed"] == []
    assert [c.name for c in report.checks if not c.figure or not c.detail] == []
    figures = {c.name: c.figure for c in report.checks}
    assert re.search(r"ulp, worst error \d+% of what float32 and one rounding allow$", figures["changed"])
    assert re.fullmatch(r"0 of \d+ not finite", figures["finite"])
    assert {"untouched", "changed", "finite", "effect", "load", "logits", "answers"} <= {
        c.name for c in report.checks
    }


class Counter(Silent):
    """Adds up what it is told."""

    total = done = 0

    def begin(self, what: str, *, total: int) -> None:
        self.total += total

    def advance(self, count: int) -> None:
        self.done += count


def test_progress_counts_every_byte(plain: Case) -> None:
    counter = Counter()
    check_tensors(
        plain.merged,
        plan=plain.plan,
        base_folder=plain.base,
        base=plain.layout,
        adapter_folder=plain.adapter,
        progress=counter,
    )
    assert counter.done == counter.total == plain.layout.total_bytes


@pytest.mark.parametrize("name", ["plain", pytest.param("half", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("times", "words", "failed"),
    [
        (2.0, "the delta is there 2.00 times (added twice)", {"changed", "logits", "answers"}),
        (0.0, "the delta is missing", {"changed", "effect", "logits", "answers", "unlike_base"}),
        (
            0.5,
            "the delta is there 0.50 times (rsLoRA's scale forgotten: alpha/r in place of alpha/√r)",
            {"changed", "logits", "answers"},
        ),
    ],
)
def test_wrong_amount_of_delta(request, tmp_path, name, times, words, failed) -> None:
    case = request.getfixturevalue(name).copy(tmp_path)
    again(case, times=times)
    report = case.report()
    found = {c.name for c in report.checks if c.verdict == "failed"}
    assert found | MAYBE == failed | MAYBE
    assert {"changed", "logits"} <= found
    assert f"All 14 changed tensors: {words}; off by up to " in report.check("changed").detail


@pytest.mark.parametrize(("times", "failed"), [(2.0, "changed"), (0.0, "effect"), (0.5, "changed")])
def test_faint_delta_is_proven_by_the_tensors(faint: Case, tmp_path: Path, times: float, failed: str) -> None:
    case = faint.copy(tmp_path)
    again(case, times=times)
    assert failed in case.failed("tensors")


@pytest.mark.parametrize("name", ["plain", pytest.param("half", marks=pytest.mark.slow)])
def test_one_wrong_tensor_is_named(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    case = request.getfixturevalue(name).copy(tmp_path)
    put(case.merged, Q, lambda t: t * 1.1)
    assert case.failed("tensors") == {"changed"}
    assert case.report("tensors").check("changed").detail.startswith(f"{Q}: other numbers than")


@pytest.mark.parametrize("name", ["plain", pytest.param("half", marks=pytest.mark.slow)])
def test_untouched_tensor_changed_by_one_bit(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    case = request.getfixturevalue(name).copy(tmp_path)
    put(case.merged, NORM, flip_bit)
    assert case.failed("tensors") == {"untouched"}
    assert case.report("tensors").check("untouched").detail == f"Not the base's: {NORM} (1 bytes differ)."


def test_changed_tensor_off_by_two_ulp(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    put(case.merged, Q, lambda t: t.view(torch.int32).add(2).view(torch.float32))
    assert case.failed("tensors") == {"changed"}


def test_nan(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    put(case.merged, Q, lambda t: t.index_fill(0, torch.tensor([3]), float("nan")))
    failed = case.failed()
    assert failed >= {"changed", "finite", "logits"}
    assert f"{Q} (32 elements)" in case.report("tensors").check("finite").detail


def test_overflow_to_infinity(half: Case, tmp_path: Path) -> None:
    """float16 ends at 65504: a dtype that was asked for may not turn numbers into infinity."""
    case = half.copy(tmp_path)
    base = Path(shutil.copytree(case.base, tmp_path / "base"))
    put(base, NORM, lambda t: t.index_fill(0, torch.tensor([0]), 1e5))
    edit(case.merged, lambda ts: {n: t.to(torch.float16) for n, t in ts.items()})
    put(case.merged, NORM, lambda t: t.index_fill(0, torch.tensor([0]), float("inf")))
    broken = replace(case, base=base, plan=replace(case.plan, dtype="float16"))
    assert "finite" in broken.failed("tensors")


@pytest.mark.parametrize("wanted", [pytest.param("float32", marks=pytest.mark.slow), "float16"])
def test_asked_dtype(half: Case, tmp_path: Path, wanted: str) -> None:
    exact = {n: t.float() for n, t in live(half.base, half.adapter).merge_and_unload().state_dict().items()}
    case = half.copy(tmp_path)
    dtype = getattr(torch, wanted)
    names = {b.tensor for b in case.plan.bindings}
    edit(case.merged, lambda ts: {n: (exact[n] if n in names else t).to(dtype) for n, t in ts.items()})
    case = replace(case, plan=replace(case.plan, dtype=wanted))
    assert case.failed() == set()
    put(case.merged, NORM, flip_bit)
    assert case.failed("tensors") == {"untouched"}


def test_missing_formula_fails(plain: Case) -> None:
    odd = replace(plain.plan.bindings[0], method="magic")
    case = replace(plain, plan=replace(plain.plan, bindings=(odd, *plain.plan.bindings[1:])))
    assert case.failed("tensors") == {"changed"}
    assert "no formula for the method 'magic'" in case.report("tensors").check("changed").detail


def tied_case(folder: Path, *, lost: bool = False) -> Case:
    """LoRA on the tied head: the merged model stores embedding and head apart."""
    base = save_base(folder / "base", "llama_tied", dtype="bfloat16")
    config = LORA_VARIANTS["plain"] | {"target_modules": ["lm_head", "q_proj"]}
    adapter = save_adapter(folder / "adapter", base, config=config)
    tuned = live(base, adapter)
    layer = tuned.get_base_model().lm_head
    head = layer.get_base_layer().weight.detach() + layer.get_delta_weight("default")
    values = dict(tuned.merge_and_unload().state_dict()) | {"lm_head.weight": head.detach()}
    names = sorted(load_file(adapter / "adapter_model.safetensors"))
    bindings = []
    for parameter, source in (("lm_head.weight", "model.embed_tokens.weight"), *_queries()):
        module = parameter.removesuffix(".weight")
        own = tuple(n for n in names if n.startswith(f"base_model.model.{module}.lora_"))
        shape = tuple(values[parameter].shape)
        bindings.append(
            Binding(
                tensor=parameter, source=source, parameter=parameter, method="lora", adapter=own, shape=shape,
                dtype="BF16",
            )
        )  # fmt: skip
    edits = (
        ConfigEdit(key="tie_word_embeddings", before=True, after=False, reason="the head has an update"),
    )
    case = assemble(
        folder / "merged", base=base, adapter=adapter, values=values, bindings=bindings, edits=edits
    )
    if lost:
        edit(case.merged, lambda ts: {n: t for n, t in ts.items() if n != "lm_head.weight"})
    return case


def _queries() -> list[tuple[str, str]]:
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)]
    return [(n, n) for n in names]


def test_untied_head(tmp_path: Path) -> None:
    assert tied_case(tmp_path).failed() == set()


def test_tied_head_lost(tmp_path: Path) -> None:
    case = tied_case(tmp_path, lost=True)
    assert case.failed() | MAYBE == {"keys", "ties", "model_class", "changed", "load", "logits"} | MAYBE


def test_tie_left_in_the_config(tmp_path: Path) -> None:
    case = tied_case(tmp_path)
    path = case.merged / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    assert "config" in case.failed("structure")


def test_saved_head(tmp_path: Path) -> None:
    case = make(
        tmp_path, "bert_seqcls", {"r": 4, "task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    )
    assert case.failed() == set()
    put(case.merged, "classifier.weight", lambda t: t.flip(0))
    assert {"changed", "logits"} <= case.failed()
