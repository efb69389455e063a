"""`--parity peft`: the file that a plain PEFT script writes, bit for bit, or a refusal where that model is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import save_file

from bot import pipeline, wording
from bot.errors import InputError, RefusedError, ValidationError
from bot.plan.peft_types import MERGED
from bot.progress import Silent
from bot.request import MergeRequest, Recipe
from bot.settings import Settings
from tests.merge.oracle import read_tensors
from tests.merge.test_old_experts import pair
from tests.merge.test_old_names import QWEN, aged_adapter
from tests.tiny.adapters import LORA_VARIANTS, SUITS, TUNERS, edit_config, live, rewrite_weights
from tests.tiny.models import inputs, load, logits, model_class

DTYPES = ("bfloat16", "float16", "float32")
NO_MERGE = {"alora", "layer_replication", "lora_bias"}  # no merge exists: refused with and without the flag
TIED = ("weight_tying", "weight_tying_both")  # wrong in PEFT, see below
VARIANTS = {k: v for k, v in LORA_VARIANTS.items() if k not in {*NO_MERGE, *TIED}}
CASES = {f"LORA {k}": (SUITS.get(k, "llama"), v) for k, v in VARIANTS.items()}
CASES |= {f"LORA {k} tied": ("llama_tied", LORA_VARIANTS[k]) for k in ("save_lm_head", "save_embed_and_head")}
CASES |= {
    k: (SUITS.get(k.partition(".")[0], "llama"), v)
    for k, v in TUNERS.items()
    if k.partition(".")[0] in MERGED
}
MATRIX = [
    pytest.param(case, dtype, marks=[pytest.mark.slow] if dtype != "bfloat16" or number % 3 else [])
    for number, case in enumerate(sorted(CASES))
    for dtype in DTYPES
]


def script(base: Path, adapter: Path, out: Path, *, dtype: str) -> dict[str, torch.Tensor]:
    """What everybody writes: load, merge_and_unload, save."""
    kind = model_class(base, task=PeftConfig.from_pretrained(str(adapter)).task_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load(base, auto=kind.__name__, dtype=getattr(torch, dtype))
        merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(out)
    return read_tensors(out)


@pytest.mark.parametrize(("case", "dtype"), MATRIX)
def test_bit_for_bit(
    case: str, dtype: str, base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    architecture, config = CASES[case]
    base = base_of(architecture, dtype=dtype)
    _, adapter = adapter_on(architecture, config, base=base)
    out, plan = merged(adapter, parity="peft")
    touched = {b.tensor for b in plan.bindings}
    want, got = (
        as_on_disk(script(base, adapter, tmp_path / "peft", dtype=dtype), base=base),
        read_tensors(out),
    )
    assert want.keys() == got.keys() - (read_tensors(base).keys() - want.keys() - touched)
    assert [k for k in want if not torch.equal(want[k].to(kept_dtype(want[k], got[k])), got[k])] == []


def as_on_disk(tensors: dict[str, torch.Tensor], *, base: Path) -> dict[str, torch.Tensor]:
    """A head that is put on a bare model (AutoModel) moves its names below `bert.`; the merge keeps the base's."""
    own = read_tensors(base).keys()
    return {k.removeprefix("bert.") if k.removeprefix("bert.") in own else k: v for k, v in tensors.items()}


def kept_dtype(want: torch.Tensor, got: torch.Tensor) -> torch.dtype:
    """gpt_oss has its norms in float32 whatever is asked for; the merge leaves what it does not touch as on disk."""
    same = want.ndim == 1 and want.dtype == torch.float32 and torch.equal(want, got.float())
    return got.dtype if same else want.dtype


@pytest.mark.parametrize("variant", [*TIED, "embedding", "lm_head", "embedding_and_head", "dora_embedding"])
def test_a_wrong_model_is_not_reproduced(
    variant: str, base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    """PEFT's own merge of a delta on tied weights answers unlike its live adapter; ours does without the flag."""
    base, adapter = adapter_on("llama_tied", LORA_VARIANTS[variant])
    with pytest.raises(RefusedError) as refusal:
        merged(adapter, parity="peft")
    assert refusal.value.code == "parity-tied-weights"
    assert "--parity" in refusal.value.advice
    script(base, adapter, tmp_path / "peft", dtype="float32")
    batch = inputs("llama_tied", base)
    off = (logits(live(base, adapter), batch) - logits(load(tmp_path / "peft"), batch)).abs().max()
    assert off > 0.1
    merged(adapter)


def test_names_that_peft_passes_over_are_refused(adapter_on: Callable, merged: Callable) -> None:
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    rewrite_weights(adapter, lambda tensors: {f"module.{k}": v for k, v in tensors.items()})
    assert refused(lambda: merged(adapter, parity="peft")) == "parity-names"


def test_experts_that_peft_drops_are_refused(base_of: Callable, merged: Callable, tmp_path: Path) -> None:
    base = base_of("qwen2_moe")
    adapter = per_expert_adapter(tmp_path / "adapter", base=base)
    merged(adapter, out=tmp_path / "exact")
    assert refused(lambda: merged(adapter, parity="peft")) == "parity-experts"


def test_a_base_of_two_dtypes_is_refused(
    base_of: Callable, adapter_on: Callable, merged: Callable, tmp_path: Path
) -> None:
    base, adapter = adapter_on("llama", LORA_VARIANTS["plain"], base=base_of("llama", dtype="bfloat16"))
    mixed = tmp_path / "mixed"
    shutil.copytree(base, mixed)
    tensors = {k: v.float() if "norm" in k else v for k, v in read_tensors(base).items()}
    save_file(tensors, mixed / "model.safetensors", metadata={"format": "pt"})
    merged(adapter, base=str(mixed), out=tmp_path / "exact")
    assert refused(lambda: merged(adapter, base=str(mixed), parity="peft")) == "parity-dtype"


def test_a_config_that_peft_reads_otherwise_is_refused(adapter_on: Callable, merged: Callable) -> None:
    """PEFT drops magnitudes that use_dora says nothing of, without a word."""
    _, adapter = adapter_on("llama", LORA_VARIANTS["dora"])
    edit_config(adapter, use_dora=False)
    assert refused(lambda: merged(adapter, parity="peft")) == "parity-config"
    merged(adapter)


def test_old_module_names_are_refused(adapter_on: Callable, merged: Callable, tmp_path: Path) -> None:
    """PEFT finds no module of these names, and merges nothing there."""
    _, adapter = adapter_on("qwen2_vl", LORA_VARIANTS["plain"])
    old = aged_adapter(adapter, QWEN, tmp_path / "old")
    merged(old, out=tmp_path / "exact")
    assert refused(lambda: merged(old, parity="peft")) == "parity-names"


def test_old_experts_are_refused(adapter_on: Callable, merged: Callable, tmp_path: Path) -> None:
    _, _, old = pair(adapter_on, "mixtral", "0.18.1")
    merged(old, out=tmp_path / "exact")
    assert refused(lambda: merged(old, parity="peft")) == "parity-experts"


def test_a_start_that_changed_the_base_is_refused(
    trained: Callable, merged: Callable, tmp_path: Path
) -> None:
    """With its initial adapter beside it, and with the residual base, on which PEFT would start once more."""
    adapter, residual, _ = trained("pissa_niter")
    assert refused(lambda: merged(adapter, parity="peft")) == "parity-start"
    (adapter / "pissa_niter_init").rename(tmp_path / "elsewhere")
    assert refused(lambda: merged(adapter, base=str(residual), parity="peft")) == "parity-start"


@pytest.mark.parametrize(
    "option",
    [
        {"dtype": "float32"},
        {"device": "cuda"},
        {"quantized_base": "dequantize"},
        {"initial_adapter": "somewhere"},
        {"further": ("another",), "recipe": Recipe(method="stack")},
        {"further": ("another",), "recipe": Recipe(method="cat", weights=(1.0, 1.0))},
    ],
)
def test_options_that_parity_does_not_have(
    option: dict[str, Any], adapter_on: Callable, plan_of: Callable
) -> None:
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    with pytest.raises(InputError) as error:
        plan_of(adapter, parity="peft", **option)
    assert error.value.code == "parity-options"


def test_parity_is_another_job_and_is_said(adapter_on: Callable, plan_of: Callable) -> None:
    _, adapter = adapter_on("llama", LORA_VARIANTS["plain"])
    exact, peft = plan_of(adapter), plan_of(adapter, parity="peft")
    assert (exact.parity, peft.parity) == ("exact", "peft")
    assert exact.key != peft.key
    assert "merge_and_unload" in wording.precision(peft)
    assert any("merge_and_unload" in note for note in peft.notes)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["LORA plain", "IA3", "LORA dora", "LORA pissa", "LOHA"])
def test_a_good_one_passes_its_checks_and_a_broken_one_fails(
    case: str, base_of: Callable, adapter_on: Callable, merged: Callable
) -> None:
    base = base_of("llama", dtype="bfloat16")
    _, adapter = adapter_on("llama", CASES[case][1], base=base)
    out, plan = merged(adapter, parity="peft", validation="full")
    report = json.loads((out / "merge_report.json").read_text())
    found = {c["name"]: c["verdict"] for c in report["checks"]}
    assert found["parity"] == found["changed"] == found["logits"] == "passed"

    def verdicts(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> dict[str, str]:
        tensors, before = read_tensors(out), read_tensors(base)
        name = plan.bindings[3].tensor
        broken = tensors | {name: change(tensors[name], before[name]).to(tensors[name].dtype).contiguous()}
        save_file(broken, out / "model.safetensors", metadata={"format": "pt"})
        asked = MergeRequest(adapter=str(adapter), parity="peft", validation="full")
        with pytest.raises(ValidationError) as error:
            pipeline.validate(out, asked, settings=Settings(isolation="none"), progress=Silent())
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return {c.name: c.verdict for c in error.value.report.checks}

    one_bit = verdicts(lambda new, _: flip(new))
    assert one_bit["parity"] == "failed"
    lost = verdicts(lambda _, old: old)
    assert lost["parity"] == lost["changed"] == "failed"
    twice = verdicts(lambda new, old: 2 * new.float() - old.float())
    assert twice["parity"] == twice["changed"] == "failed"


def test_the_bytes_do_not_depend_on_the_workers(
    base_of: Callable, adapter_on: Callable, bytes_by: Callable
) -> None:
    base = base_of("llama", dtype="bfloat16", shards=3)
    _, adapter = adapter_on("llama", LORA_VARIANTS["dora"], base=base)
    assert len({bytes_by(adapter, base, workers=workers, parity="peft") for workers in (1, 2, 5)}) == 1


def flip(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the last bit of its first element flipped."""
    bits = tensor.clone().view(torch.int16)
    bits[0, 0] ^= 1
    return bits.view(tensor.dtype)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as refusal:
        call()
    return refusal.value.code


def per_expert_adapter(folder: Path, *, base: Path) -> Path:
    """A LoRA on each expert, as transformers 4 had them."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in read_tensors(base).items():
        if ".experts." in name:
            prefix = f"base_model.model.{name.removesuffix('.weight')}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(4, tensor.shape[1], generator=generator) / 5
            weights[f"{prefix}.lora_B.weight"] = torch.randn(tensor.shape[0], 4, generator=generator) / 20
    save_file(weights, folder / "adapter_model.safetensors")
    targets = [f"experts.{i}.{p}_proj" for i in range(4) for p in ("gate", "up", "down")]
    keys = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(keys | {"base_model_name_or_path": str(base)}))
    return folder
