"""Names that PEFT would pass over are read as what they are."""

from __future__ import annotations

import pytest

from bot.errors import RefusedError
from bot.plan.adapter_keys import canonical, check_dtypes, renames
from bot.weights.header import TensorSpec

Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "name",
    [
        Q,
        f"module.{Q}",
        f"_orig_mod.{Q}",
        f"module._orig_mod.{Q}",
        f"base_model.model.{Q}",
        Q.removeprefix("base_model.model."),
        Q.replace("base_model.model.model.", "base_model.model._orig_mod.model."),
        Q.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
        Q.replace("self_attn", "_checkpoint_wrapped_module.self_attn"),
        Q.replace("lora_A.weight", "lora_A.default.weight"),
    ],
)
def test_one_name_for_all(name: str) -> None:
    assert canonical(name) == Q


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("base_model.vera_A", "base_model.vera_A"),
        (
            "base_model.model.x.lora_magnitude_vector.default.weight",
            "base_model.model.x.lora_magnitude_vector",
        ),
        ("base_model.model.x.lora_magnitude_vector", "base_model.model.x.lora_magnitude_vector"),
        ("base_model.model.x.lora_embedding_A.default", "base_model.model.x.lora_embedding_A"),
        ("base_model.model.score.modules_to_save.default.weight", "base_model.model.score.weight"),
        ("base_model.model.module_list.0.lora_A.weight", "base_model.model.module_list.0.lora_A.weight"),
    ],
)
def test_what_else_is_taken_out(name: str, wanted: str) -> None:
    assert canonical(name) == wanted


def test_only_what_changes_is_listed() -> None:
    assert renames([Q, "module.base_model.model.x.lora_B.weight"]) == {
        "module.base_model.model.x.lora_B.weight": "base_model.model.x.lora_B.weight"
    }


def test_two_tensors_with_one_name_are_a_contradiction() -> None:
    with pytest.raises(RefusedError):
        renames([Q, f"module.{Q}"])


def spec(name: str, dtype: str) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(1,), start=0, end=8)


@pytest.mark.parametrize("dtype", ["I32", "F8_E4M3", "BOOL"])
def test_factors_are_floats(dtype: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        check_dtypes([spec(Q, dtype)])
    assert refusal.value.code == "adapter-dtype"
    assert dtype in refusal.value.sentence


def test_buffers_of_a_saved_module_may_be_integers() -> None:
    check_dtypes([spec(Q, "BF16"), spec("base_model.model.score.num_batches_tracked", "I64")])
