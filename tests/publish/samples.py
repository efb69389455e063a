"""A plan and a report as the other stages make them, for the tests of what is written about them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bot.evidence import (
    Baseline,
    ChangedTensor,
    Continuation,
    Errors,
    Evidence,
    Pace,
    Perplexity,
    Scores,
    Spectrum,
    Speed,
)
from bot.records import (
    AddedTensor,
    Binding,
    Check,
    ConfigEdit,
    Estimate,
    Patch,
    Pinned,
    Plan,
    Report,
    Sidecar,
)
from bot.request import Destination
from bot.serial import to_json

KEY = "3f1c9a2b7d5e8f60"
ADAPTER = Pinned(kind="hub", location="alice/cat-lora", commit="a" * 40, revision="main")
BASE = Pinned(kind="hub", location="acme/base-7b", commit="b" * 40)
EVIDENCE = Evidence(
    tensors=(
        ChangedTensor(
            name="model.layers.0.q.weight",
            relative_norm=0.0123,
            median_ulp=0.25,
            worst_ulp=0.5,
            rows=256,
            of_rows=4096,
        ),
        ChangedTensor(
            name="lm_head.weight", relative_norm=0.2, median_ulp=0.25, worst_ulp=None, rows=9, of_rows=9
        ),
    ),
    errors=Errors(width=0.05, counts=(10,) * 10 + (1,) + (0,) * 29),
    spectra=(
        Spectrum(layer="model.layers.0", rank=4, energy=(0.7, 0.2, 0.09, 0.01)),
        Spectrum(layer="lm_head", rank=4, energy=(0.95, 0.05, 0.0, 0.0)),
    ),
    scores=Scores(base=(0.0, 1.0, 5.0), adapter=(-1.0, 2.0, 3.0), merged=(-1.0, 2.0, 3.001)),
    baseline=Baseline(dtype="bfloat16", worst=0.02, mean=0.004, merged_worst=0.001, merged_mean=0.0006),
    perplexity=Perplexity(
        base=381.2, adapter=24.51, merged=24.53, tokens=4095, window=1024, cut=True, sha256="e" * 64
    ),
    continuations=(
        Continuation(
            prompt="user: Who ate it?", base="I", adapter="The cat.", merged="The cat.", agreement="same"
        ),
        Continuation(prompt="def f(n):\n", base="", adapter="a | b", merged="a | `c`", agreement="tie"),
    ),
    speed=Speed(
        place="the CPU with 2 threads",
        adapter=Pace(tokens_per_second=21.5, first_token_seconds=0.08, peak_bytes=2_400_000_000, tokens=32),
        merged=Pace(tokens_per_second=30.25, first_token_seconds=0.05, peak_bytes=2_300_000_000, tokens=32),
    ),
)


def a_plan(**changes: Any) -> Plan:
    binding = Binding(
        tensor="model.layers.0.q.weight",
        source="model.layers.0.q.weight",
        parameter="model.layers.0.q.weight",
        method="lora",
        adapter=("a", "b"),
        shape=(4, 4),
        dtype="BF16",
    )
    plan = Plan(
        key=KEY,
        adapter=ADAPTER,
        base=BASE,
        base_found_by="adapter_config.json",
        peft_type="LORA",
        task_type="CAUSAL_LM",
        model_class="LlamaForCausalLM",
        adapter_config={"r": 8},
        adapter_file="adapter_model.safetensors",
        renamed={},
        way="layers",
        patches=(
            Patch(
                rule="unknown-key", key="corda_config", before=None, after=None, reason="unknown to this PEFT"
            ),
            Patch(rule="loftq", key="loftq_config", before={}, after=None, reason="training", inert=True),
        ),
        bindings=(binding,),
        added=(AddedTensor(name="lm_head.weight", shape=(4, 4), dtype="BF16", reason="untied head"),),
        config_edits=(
            ConfigEdit(key="tie_word_embeddings", before=True, after=False, reason="the head has its own"),
        ),
        sidecars=(Sidecar(name="tokenizer.json", origin="base"),),
        shards=("model.safetensors",),
        dtype="bfloat16",
        destination=Destination(kind="repository", location="alice/cat-7b"),
        estimate=Estimate(download_bytes=1, output_bytes=2, disk_bytes=3, memory_bytes=4),
        notes=("The tokenizer is the base model's.",),
    )
    return replace(plan, **changes)


def a_report(plan: Plan, **changes: Any) -> Report:
    report = Report(
        verdict="passed",
        level="tensors",
        plan_key=plan.key,
        adapter=plan.adapter,
        base=plan.base,
        checks=(
            Check(
                name="structure",
                verdict="passed",
                figure="2 of 2 tensors",
                detail="every name and shape as planned",
            ),
            Check(name="behaviour", verdict="skipped", figure="", detail="not asked for"),
        ),
        files={"model.safetensors": "c" * 64, "config.json": "d" * 64},
        versions={"peft": "0.21.2", "torch": "2.13.0"},
        device="cpu",
        seconds=1.5,
        evidence=EVIDENCE,
    )
    return replace(report, **changes)


def a_result(folder: Path, plan: Plan, *, content: bytes = b"weights") -> Path:
    """A finished folder of ours."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in plan.shards:
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text("{}")
    (folder / "merge_plan.json").write_text(to_json(plan))
    return folder


def hostile_evidence(name: str) -> Evidence:
    """Measured of tensors that are called so."""
    [first, *_], [spectrum, *_] = EVIDENCE.tensors, EVIDENCE.spectra
    tensors = (
        replace(first, name=name),
        replace(first, name=f"model.layers.1.{name}", relative_norm=0.5),
    )
    said = Continuation(prompt=name, base=name, adapter=name, merged=name, agreement="other")
    return replace(
        EVIDENCE, tensors=tensors, spectra=(replace(spectrum, layer=name),) * 2, continuations=(said,) * 2
    )
