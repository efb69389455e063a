"""Models that do not fit into memory answer the same offloaded to the disk, bit for bit, or it is said why not."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bot.errors import RefusedError
from bot.merge.exact import exact_merge
from bot.progress import Silent
from bot.records import Check, Plan
from bot.request import MergeRequest
from bot.validate import memory
from bot.validate.answers import Answers
from bot.validate.behaviour import OFFLOADED, check_behaviour
from bot.validate.live import ask_live, load_base
from bot.validate.offload import Disk, OffloadError
from bot.validate.offloaded import ask_offloaded, sparing
from bot.validate.oracle import Exact
from bot.validate.prompts import answers, batches
from bot.validate.questions import questions
from bot.weights.files import LocalFiles
from bot.weights.layout import read_layout
from tests.tiny.adapters import LORA_VARIANTS
from tests.tiny.variants import SUITS, TUNERS
from tests.validate.factory import Case, put

FILE = "adapter_model.safetensors"
REQUEST = MergeRequest(adapter="")
EXPERTS = LORA_VARIANTS["target_parameters"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rslora": ("llama", LORA_VARIANTS["rslora"]),
    "dora": ("llama", LORA_VARIANTS["dora"]),
    "embedding": ("llama", LORA_VARIANTS["embedding"]),
    "saved modules": ("llama", LORA_VARIANTS["save_embed_and_head"]),
    "tokens": ("llama", LORA_VARIANTS["trainable_tokens"]),
    "tied head": ("llama_tied", LORA_VARIANTS["lm_head"]),
    "tied embedding, DoRA": ("llama_tied", LORA_VARIANTS["dora_embedding"]),
    "Conv1D": ("gpt2", LORA_VARIANTS["conv1d_fan_in_fan_out"]),
    "encoder and decoder": ("t5", {"r": 4, "task_type": "SEQ_2_SEQ_LM", "target_modules": ["q", "wo"]}),
    "experts one by one": ("qwen3_moe", EXPERTS),
    "experts stacked": ("gpt_oss", LORA_VARIANTS["target_parameters_transposed"]),
}
#: Their start is computed from the weights that are to be on the disk.
NOT_SO = ("pissa", "olora", "mica", "kasa", "FROD", "OSF", "PSOFT", "TINYLORA")
SLOW = ("tokens", "embedding", "encoder and decoder", "tied embedding, DoRA")


def least(plan: Plan, base: Path, adapter: Path) -> int:
    """The memory that is enough for one layer at a time, and for no more."""
    return memory.needed_offloaded(base=read_layout(LocalFiles(base)), adapter_file=adapter / FILE)[1]


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
def test_the_answers_are_those_of_the_model_in_memory(
    case: str, base_of: Callable, adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    architecture, config = CASES[case]
    base, adapter = adapter_on(architecture, config, base=base_of(architecture, dtype="bfloat16"))
    found, wanted = both(plan_of(adapter), base, adapter, tmp_path)
    assert same(found.base, wanted.base)
    assert same(found.live, wanted.live)
    assert not same(found.live, found.base)
    assert found.rounded is not None
    assert wanted.rounded is not None
    assert same(found.rounded, wanted.rounded)
    assert not same(found.rounded, found.live)


@pytest.mark.slow
@pytest.mark.parametrize("name", LORA_VARIANTS | TUNERS)
def test_every_adapter_is_run_right_or_not_at_all(
    name: str, base_of: Callable, adapter_on: Callable, plan_of: Callable, tmp_path: Path
) -> None:
    architecture = SUITS.get(name, "llama")
    config = (LORA_VARIANTS | TUNERS)[name]
    base, adapter = adapter_on(architecture, config, base=base_of(architecture))
    try:
        plan = plan_of(adapter)
    except RefusedError:
        return
    try:
        found, wanted = both(plan, base, adapter, tmp_path)
    except OffloadError:
        assert name in NOT_SO
        return
    assert name not in NOT_SO
    assert same(found.live, wanted.live)


def both(plan: Plan, base: Path, adapter: Path, scratch: Path) -> tuple[Answers, Answers]:
    """The answers offloaded, and those in memory."""
    sources = {"plan": plan, "base_folder": base, "adapter_folder": adapter}
    exact = partial(exactly, plan, base, adapter)
    model, missing = load_base(plan, base_folder=base, merged=base)
    asking = questions(base, model=model, plan=plan, request=REQUEST, device="cpu")
    asking = sparing(asking, own=True)
    wanted = ask_live(model, asking, exact=exact(), **sources).answers
    (scratch / "disk").mkdir()
    disk = Disk(scratch / "disk", memory=0)
    model, lacked = load_base(plan, base_folder=base, merged=base, disk=disk)
    assert lacked == missing
    lost = {name for name, value in model.named_parameters() if value.ndim > 1 and not disk.holds(value)}
    assert lost <= missing
    return ask_offloaded(model, asking, disk=disk, exact=exact(), **sources).answers, wanted


def exactly(plan: Plan, base: Path, adapter: Path) -> Exact:
    config = json.loads((base / "config.json").read_text())
    layout = read_layout(LocalFiles(base))
    return exact_merge(plan, base_folder=base, base=layout, config=config, adapter_path=adapter / FILE)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_one_layer_at_a_time_is_in_memory(base_of: Callable, tmp_path: Path) -> None:
    base = base_of("llama")
    disk = Disk(tmp_path, memory=0)
    kind = SimpleNamespace(model_class="LlamaForCausalLM", config_edits=(), stages=(), bindings=())
    model, _ = load_base(kind, base_folder=base, merged=base, disk=disk)
    rows = batches([torch.tensor([[5, 6, 7]])], folder=base, model=model, task=None)
    seen = []

    def look(module: Any, *_: Any) -> None:
        matrices = ((name, value) for name, value in model.named_parameters() if value.ndim > 1)
        real = [name for name, value in matrices if value.untyped_storage().nbytes() > 4]
        seen.append({name.split(".")[2] if ".layers." in name else name for name in real})

    for layer in model.model.layers:
        layer.mlp.register_forward_hook(look)
    with disk.running(model):
        found = answers(model, rows, device="cpu")
    assert seen == [{"0"}, {"1"}]
    assert all(value.untyped_storage().nbytes() == 4 for value in model.parameters() if value.ndim > 1)
    whole, _ = load_base(kind, base_folder=base, merged=base)
    assert same(found, answers(whole, rows, device="cpu"))


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Check]]:
    """The checks by name, with so little memory that all of the weights lie on the disk, or `more`."""

    def check(out: Path, plan: Plan, base: Path, adapter: Path, *, more: int = 0) -> dict[str, Check]:
        free = least(plan, base, adapter) + more
        monkeypatch.setattr(memory, "available", lambda: free)
        found, _ = check_behaviour(
            out,
            plan=plan,
            base_folder=base,
            adapter_folder=adapter,
            request=REQUEST,
            progress=Silent(),
            exact=exactly(plan, base, adapter),
        )
        return {check.name: check for check in found}

    return check


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tied head", "experts one by one", "experts stacked"])
def test_a_good_merge_passes_and_a_bad_one_fails(
    case: str, base_of: Callable, adapter_on: Callable, merged: Callable, checked: Callable
) -> None:
    """On the disk, half on the disk, and in memory."""
    architecture, config = CASES[case]
    base, adapter = adapter_on(architecture, config, base=base_of(architecture, dtype="bfloat16"))
    out, plan = merged(adapter)
    for more in (0, 60_000, 2**40):
        found = checked(out, plan, base, adapter, more=more)
        assert (" of 51 the same" in found["answers"].figure) is (
            more < 2**40
        )  # the first prompt and the last
        going_on = found.pop("continuations").verdict
        assert going_on == ("passed" if more == 2**40 else "skipped")
        assert {check.verdict for check in found.values()} == {"passed"}, found
        assert found["logits"].detail.endswith(OFFLOADED) is (more < 2**40)
    put(out, "model.layers.0.self_attn.o_proj.weight", lambda tensor: tensor * 1.5)
    for more in (0, 2**40):
        found = checked(out, plan, base, adapter, more=more)
        assert found["logits"].verdict == "failed", found


def test_a_start_that_changes_the_base_is_not_run_so(
    adapter_on: Callable, merged: Callable, checked: Callable
) -> None:
    base, adapter = adapter_on("llama", LORA_VARIANTS["olora"])
    out, plan = merged(adapter)
    check = checked(out, plan, base, adapter)["logits"]
    assert check.verdict == "skipped"
    assert "GiB are missing" in check.detail
    assert "does not run: " in check.detail


def test_a_merge_that_is_there_only_as_pickle_is_not_read(plain: Case, tmp_path: Path) -> None:
    case = plain.copy(tmp_path)
    for shard in [*case.merged.glob("*.safetensors*")]:
        shard.unlink()
    torch.save({}, case.merged / "pytorch_model.bin")
    report = case.report()
    assert report.verdict == "failed"
    assert any("only pickle weights" in check.detail for check in report.checks)
    assert "logits" not in {check.name for check in report.checks}


def test_parity_is_not_run_so(adapter_on: Callable, merged: Callable, checked: Callable) -> None:
    base, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    out, plan = merged(adapter, parity="peft")
    assert "PEFT's own merge" in checked(out, plan, base, adapter)["logits"].detail


def test_without_disk_it_is_skipped_with_the_figure(
    adapter_on: Callable, merged: Callable, checked: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    out, plan = merged(adapter)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    check = checked(out, plan, base, adapter)["logits"]
    assert check.verdict == "skipped"
    assert "0.0 GiB are free" in check.detail
    assert check.detail.endswith("missing there.")
