"""Which small files travel, and whose they are."""

from __future__ import annotations

import json

import pytest

from bot.errors import RefusedError
from bot.plan.sidecars import check_vocabulary, choose, token_count
from tests.plan.test_base_model import Stored

BASE = {
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "vocab.json": "{}",
    "merges.txt": "",
    "chat_template.jinja": "base",
    "generation_config.json": "{}",
    "LICENSE": "",
    "USE_POLICY.md": "",
    "README.md": "",
    "config.json": "{}",
    "pytorch_model.bin": "",
    "model.safetensors": "",
    "training_args.bin": "",
}


def origins(own: dict[str, str], theirs: dict[str, str] | None = None) -> dict[str, str]:
    return {s.name: s.origin for s in choose(Stored("a", own), base=Stored("b", theirs or BASE))}


def test_everything_from_the_base_when_the_adapter_has_nothing() -> None:
    found = origins({"adapter_config.json": "{}"})
    assert set(found.values()) == {"base"}
    assert found.keys() == BASE.keys() - {
        "README.md", "config.json", "pytorch_model.bin", "model.safetensors", "training_args.bin"
    }  # fmt: skip


def test_a_tokenizer_of_its_own_is_taken_whole() -> None:
    found = origins({"tokenizer.json": "{}", "tokenizer_config.json": "{}"})
    assert found["tokenizer.json"] == found["tokenizer_config.json"] == "adapter"
    assert "vocab.json" not in found
    assert found["chat_template.jinja"] == "base"


def test_half_a_tokenizer_is_none() -> None:
    found = origins({"tokenizer_config.json": "{}", "special_tokens_map.json": "{}"})
    assert found["tokenizer_config.json"] == "base"
    assert "special_tokens_map.json" not in found


def test_the_adapters_chat_template_wins() -> None:
    assert origins({"chat_template.jinja": "own"})["chat_template.jinja"] == "adapter"
    embedded = {"tokenizer.json": "{}", "tokenizer_config.json": json.dumps({"chat_template": "own"})}
    assert "chat_template.jinja" not in origins(embedded)


def test_the_modules_of_sentence_transformers_travel() -> None:
    theirs = {
        **BASE,
        "modules.json": "[]",
        "1_Pooling/config.json": "{}",
        "2_Dense/model.safetensors": "",
        "onnx/x": "",
    }
    found = origins({}, theirs)
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors"} <= found.keys()
    assert "onnx/x" not in found


def test_tokens_are_counted_by_their_largest_id() -> None:
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2}, {"id": 9}]}
    files = {"tokenizer.json": json.dumps(tokenizer), "added_tokens.json": json.dumps({"x": 11})}
    assert token_count(Stored("a", files)) == 12
    unigram = {"model": {"vocab": [["a", 0.0], ["b", -1.0]]}}
    assert token_count(Stored("a", {"tokenizer.json": json.dumps(unigram)})) == 2
    assert token_count(Stored("a", {"tokenizer.json": "["})) == 0


def test_more_tokens_than_rows_is_refused() -> None:
    files = Stored("a", {"added_tokens.json": json.dumps({"x": 100})})
    check_vocabulary(files, base=Stored("b", {}), rows=101, name="b")
    with pytest.raises(RefusedError, match="101 tokens"):
        check_vocabulary(files, base=Stored("b", {}), rows=100, name="b")
