"""Limits: what the environment says, and what a refusal says."""

from dataclasses import fields

import pytest

from bot.errors import RefusedError
from bot.plan import limits
from bot.settings import load
from bot.terms import VARIABLES, Limits
from bot.weights.header import TensorSpec


def spec(name, *shape):
    return TensorSpec(name=name, dtype="F32", shape=shape, start=0, end=0)


def test_every_limit_has_a_variable():
    assert VARIABLES.keys() == {field.name for field in fields(Limits)}
    assert load({}).terms.limits == Limits()
    for name, variable in VARIABLES.items():
        assert getattr(load({variable: "7"}).terms.limits, name) == 7
        assert getattr(load({variable: "off"}).terms.limits, name) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("500", 500), ("500GB", 500 * 10**9), ("1.5 tb", 1_500_000_000_000), ("20 kB", 20_000)],
)
def test_bytes_may_have_a_unit(text, value):
    assert load({"MERGE_BOT_MAX_DOWNLOAD_BYTES": text}).terms.limits.download_bytes == value


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e9", "5 GiB", "nan", "٣"])
def test_a_limit_that_makes_no_sense_names_its_variable(text):
    with pytest.raises(ValueError, match="MERGE_BOT_MAX_BASE_BYTES"):
        load({"MERGE_BOT_MAX_BASE_BYTES": text})


def test_a_rank_has_no_unit():
    with pytest.raises(ValueError, match="MERGE_BOT_MAX_RANK"):
        load({"MERGE_BOT_MAX_RANK": "5GB"})


def test_licences_are_a_list():
    found = load({"MERGE_BOT_ALLOW_LICENSES": " CC-BY-ND-4.0, house-terms,"}).terms.allowed_licenses
    assert found == {"cc-by-nd-4.0", "house-terms"}


def test_a_refusal_names_value_limit_and_variable():
    bounds = Limits(base_bytes=4 * 10**9, tensors=1000)
    limits.check(bounds, base_bytes=("The weights of x have", 4 * 10**9), tensors=("y", 1000))
    with pytest.raises(RefusedError) as refusal:
        limits.check(bounds, base_bytes=("The weights of x have", 5 * 10**9))
    assert refusal.value.code == "limit-base-bytes"
    assert (
        refusal.value.sentence == "The weights of x have 5.0 GB, and MERGE_BOT_MAX_BASE_BYTES allows 4.0 GB."
    )
    with pytest.raises(RefusedError, match=r"1,001, and MERGE_BOT_MAX_TENSORS allows 1,000\."):
        limits.check(bounds, tensors=("The tensors are", 1001))
    with pytest.raises(RefusedError, match=r"4,000,000,001 bytes, .* allows 4,000,000,000\."):
        limits.check(bounds, base_bytes=("The weights have", 4 * 10**9 + 1))


def test_the_rank_is_what_the_config_or_a_tensor_says():
    assert limits.largest_rank({"r": 4, "rank_pattern": {"a": 9}}, []) == 9
    assert limits.largest_rank({"r": 4}, [spec("base_model.model.q.lora_A.weight", 64, 8)]) == 64
    assert limits.largest_rank({"r": 4}, [spec("base_model.model.q.lora_B.weight", 64, 8)]) == 4
    assert limits.largest_rank({"r": float("nan"), "rank_pattern": {"a": float("inf")}}, []) == 0
