"""BONE, which PEFT 0.19 removed, merges as the MiSS that it became: the same bytes."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.tiny.adapters import TUNERS, edit_config, rewrite_weights


@pytest.mark.parametrize("name", ["MISS", "MISS.bat"])
def test_bone_merges_as_miss(adapter_on, merged, tmp_path, name):
    _, miss = adapter_on("llama", {"peft_type": "MISS"} | TUNERS[name])
    bone = shutil.copytree(miss, tmp_path / "bone")
    edit_config(bone, peft_type="BONE", mini_r=..., miss_dropout=...)
    rewrite_weights(
        bone, lambda found: {k.replace(".miss_block", ".bone_block"): t for k, t in found.items()}
    )
    assert any("bone_block" in k for k in json.loads(_header(bone)))
    (one, _), (other, plan) = merged(miss, out=tmp_path / "one"), merged(bone, out=tmp_path / "other")
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert plan.peft_type == "MISS"
    assert {p.rule for p in plan.patches} >= {"bone"}


def _header(folder):
    data = (folder / "adapter_model.safetensors").read_bytes()
    return data[8 : 8 + int.from_bytes(data[:8], "little")]
