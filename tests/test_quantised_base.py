"""Quantised bases at the command line: the original by default, dequantised weights when asked for, else a refusal."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.e2e import BASE, desk, hub, models, processes
from tests.tiny.quantised import save_bitsandbytes, save_plain

__all__ = ["desk", "hub", "models", "processes"]


def with_config(folder, *, base, **config):
    """A copy of a base with another config.json."""
    shutil.copytree(base, folder)
    before = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(before | config))
    return folder


@pytest.mark.parametrize(
    ("method", "also"),
    [
        ("bitsandbytes", True), ("fp8", True), ("fbgemm_fp8", True), ("mxfp4", True),
        ("gptq", False), ("awq", False), ("torchao", False), ("quanto", False), ("compressed-tensors", True),
    ],
)  # fmt: skip
def test_without_a_parent_every_method_is_refused(desk, method, also):
    settings = {"quant_method": method}
    base = with_config(desk.place / "packed", base=desk.models.base, quantization_config=settings)
    adapter = desk.adapter(base=str(base))
    error = desk.refused("merge", adapter, "--out", desk.out, code=3, reason="base-quantized")
    assert method in error["sentence"]
    assert "--base" in error["advice"]
    assert ("--quantized-base dequantize" in error["advice"]) is also


def test_what_cannot_be_dequantised_is_refused_when_it_is_asked_for(desk):
    settings = {"quant_method": "gptq", "bits": 4}
    base = with_config(desk.place / "packed", base=desk.models.base, quantization_config=settings)
    command = ("merge", desk.adapter(base=str(base)), "--quantized-base", "dequantize", "--out", desk.out)
    error = desk.refused(*command, code=3, reason="base-quantized")
    assert "gptq" in error["sentence"]


def test_packed_weights_that_the_config_is_silent_about_are_refused(desk):
    packed = save_bitsandbytes(desk.place / "nf4", desk.models.base, "nf4")
    config = json.loads((packed / "config.json").read_text())
    del config["quantization_config"]
    (packed / "config.json").write_text(json.dumps(config))
    adapter = desk.adapter(base=str(packed))
    error = desk.refused("merge", adapter, "--out", desk.out, code=3, reason="base-quantized")
    assert "says nothing about them" in error["sentence"]


def test_a_real_quantised_repository_leads_to_its_original(desk):
    packed = save_bitsandbytes(desk.place / "nf4", desk.models.base, "nf4_double")
    card = (
        f"---\nbase_model: {BASE}\nbase_model_relation: quantized\ntags: [4-bit, bitsandbytes, cats]\n---\n"
    )
    (packed / "README.md").write_text(card)
    desk.hub.commit("acme/tiny-nf4", packed)
    adapter = desk.adapter(base="acme/tiny-nf4")
    answer = desk("merge", adapter, "--out", desk.out)
    assert answer.code == 0, answer.err
    says = f"acme/tiny-nf4 is quantised (bitsandbytes): the merge goes into {BASE}"
    assert says in " ".join(answer.out.split())
    assert says in (desk.out / "README.md").read_text()
    assert json.loads((desk.out / "merge_report.json").read_text())["notes"][0].startswith(says)
    assert json.loads((desk.out / "merge_plan.json").read_text())["base"]["location"] == BASE
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), atol=1e-4)


def test_dequantised_weights_from_the_hub_and_back(desk):
    """The plan reads headers alone, the published model is adapter + dequantised weights, and says so."""
    packed = save_bitsandbytes(desk.place / "int8", desk.models.base, "int8")
    (packed / "README.md").write_text("---\ntags: [8-bit, bitsandbytes, cats]\n---\n")
    desk.hub.commit("acme/tiny-int8", packed)
    adapter = desk.adapter(base="acme/tiny-int8")
    flag = ("--quantized-base", "dequantize")
    desk.hub.clear_requests()
    plan = desk.done("plan", adapter, *flag)
    assert desk.weights_read() < 120_000
    assert plan["dequantized"] == "bitsandbytes int8"
    assert desk.done("run", adapter, *flag, "--to", "alice/deq")["report"]["verdict"] == "passed"
    plain = save_plain(desk.place / "plain", packed, desk.models.base)
    published = desk.place / "published"
    (published / "merge_report").mkdir(parents=True)
    for name, blob in desk.hub.files("alice/deq").items():
        shutil.copyfile(blob, published / name)
    answers = desk.plain(published)
    assert torch.allclose(answers, desk.wanted(adapter, base=plain), atol=1e-4)
    assert not torch.allclose(answers, desk.wanted(adapter), atol=1e-4)
    text = (published / "README.md").read_text()
    assert "merged into its dequantised weights" in text
    assert "- cats" in text
    assert "8-bit" not in text.split("---")[1]
    assert not any(desk.scratch.iterdir())


def test_a_plan_of_four_bit_weights_reads_their_states_alone(desk):
    packed = save_bitsandbytes(desk.place / "nf4", desk.models.base, "nf4")
    desk.hub.commit("acme/tiny-states", packed)
    desk.hub.clear_requests()
    plan = desk.done("plan", desk.adapter(base="acme/tiny-states"), "--quantized-base", "dequantize")
    ranges = [r for r in desk.hub.requests if r.path.startswith("/blobs/") and r.method == "GET"]
    assert len(ranges) == 1 + 14
    assert {r.bytes_sent for r in ranges[1:]} <= set(range(60, 200))
    assert plan["dequantized"] == "bitsandbytes nf4"


@pytest.mark.slow
def test_merge_and_validate_take_the_same_flag(desk):
    packed = save_bitsandbytes(desk.place / "nf4", desk.models.base, "nf4")
    adapter, flag = desk.adapter(base=str(packed)), ("--quantized-base", "dequantize")
    answer = desk("merge", adapter, "--out", desk.out, *flag)
    assert answer.code == 0, answer.err
    assert "its dequantised weights" in answer.out
    for level in ("tensors", "full"):
        report = desk.done("validate", desk.out, "--adapter", adapter, *flag, "--validate", level)
        assert report["verdict"] == "passed"
        assert "dequantised" in {c["name"] for c in report["checks"]}
    failed = desk("validate", desk.out, "--adapter", adapter, "--base", desk.models.base, "--json")
    assert failed.code == 7
    assert desk("merge", adapter, "--out", desk.out, *flag).code == 0  # finds what it has made
    assert desk.clean("nf4", "adapter", "merged")


def test_the_flag_changes_nothing_for_a_plain_base(desk):
    adapter = desk.adapter()
    plan = desk.done("plan", adapter, "--quantized-base", "dequantize")
    assert (plan["dequantized"], plan["config_edits"]) == ("", [])
