"""Who names the base, in which order, and what is never opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bot.errors import AccessError, InputError, RefusedError
from bot.plan.base_model import resolve
from bot.progress import Progress
from bot.records import Pinned
from bot.weights.files import Model

LLAMA = {"model_type": "llama"}
QUANTIZED = {**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"}}


class Stored:
    """Files in memory."""

    def __init__(self, name: str, files: dict[str, str]) -> None:
        self.name = name
        self.files = files
        self.reads: list[str] = []

    def sizes(self) -> dict[str, int]:
        return {k: len(v.encode()) for k, v in self.files.items()}

    def read(self, name: str, *, start: int = 0, end: int | None = None) -> bytes:
        self.reads.append(name)
        return self.files[name].encode()[start:end]


class Repositories:
    """A Hub of a few repositories; remembers what was asked for."""

    def __init__(self, **repositories: dict[str, Any]) -> None:
        self.repositories = {k.replace("__", "/"): v for k, v in repositories.items()}
        self.asked: list[tuple[str, str | None]] = []

    def open(self, repo_id: str, *, revision: str | None = None, subfolder: str = "") -> Model:
        self.asked.append((repo_id, revision))
        found = self.repositories.get(repo_id)
        if found is None:
            raise InputError("no such repository", advice="none", code="not-found")
        if isinstance(found, Exception):
            raise found
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in found.items()}
        return Model(
            Pinned(kind="hub", location=repo_id, commit="0" * 40, revision=revision), Stored(repo_id, texts)
        )

    def download(self, model: Model, *, names: list[str], progress: Progress) -> Path:
        raise AssertionError("planning downloads nothing")


def adapter(card: str = "", **place: Any) -> Model:
    pinned = Pinned(**{"kind": "hub", "location": "me/adapter", "commit": "1" * 40, **place})
    return Model(pinned, Stored("me/adapter", {"README.md": card} if card else {}))


def base(
    hub: Repositories, config: dict[str, Any], *, card: str = "", override: str | None = None, **place: Any
) -> Any:
    return resolve(adapter(card, **place), adapter_config=config, override=override, revision=None, hub=hub)


CARD = "---\nbase_model: org/card\n---\n"
HUB = {
    "org__config": {"config.json": LLAMA},
    "org__card": {"config.json": LLAMA},
    "org__own": {"config.json": LLAMA},
    "gpt2": {"config.json": LLAMA},
}


def test_the_users_word_comes_first() -> None:
    found = base(
        Repositories(**HUB), {"base_model_name_or_path": "org/config"}, card=CARD, override="org/own"
    )
    assert (found.model.pinned.location, found.found_by) == ("org/own", "--base")


def test_then_the_config() -> None:
    found = base(Repositories(**HUB), {"base_model_name_or_path": "org/config"}, card=CARD)
    assert (found.model.pinned.location, found.found_by) == ("org/config", "adapter_config.json")


@pytest.mark.parametrize(
    "named", [None, "", "/content/model", "./out", "C:\\llama", "outputs/a/b", "s3://bucket/x", "org/gone"]
)
def test_then_the_card(named: str | None) -> None:
    found = base(Repositories(**HUB), {"base_model_name_or_path": named}, card=CARD)
    assert (found.model.pinned.location, found.found_by) == ("org/card", "the adapter's model card")
    assert bool(found.notes) is bool(named)


def test_the_revision_of_the_config_is_honoured() -> None:
    hub = Repositories(**HUB)
    base(hub, {"base_model_name_or_path": "org/config", "revision": "v2"})
    assert hub.asked == [("org/config", "v2")]


def test_a_revision_that_is_none_is_explained() -> None:
    hub = Repositories(**HUB)
    found = base(hub, {"base_model_name_or_path": "org/config", "revision": "unsloth"})
    assert hub.asked == [("org/config", None)]
    assert "unsloth" in found.notes[0]


def test_bare_names_are_old_repositories() -> None:
    assert base(Repositories(**HUB), {"base_model_name_or_path": "gpt2"}).model.pinned.location == "gpt2"


def test_a_path_of_a_remote_adapter_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(RefusedError) as refusal:
        base(Repositories(), {"base_model_name_or_path": str(tmp_path)})
    assert refusal.value.code == "base-unknown"


def test_a_path_of_a_local_adapter_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = base(Repositories(), {"base_model_name_or_path": str(tmp_path)}, kind="folder", location="/x")
    assert found.model.pinned.location == str(tmp_path)


def test_nobody_names_a_base() -> None:
    with pytest.raises(RefusedError) as refusal:
        base(Repositories(**HUB), {})
    assert "--base" in refusal.value.advice


def test_a_card_with_several_bases_is_no_guess() -> None:
    with pytest.raises(InputError, match="several"):
        base(Repositories(**HUB), {}, card="---\nbase_model:\n- org/card\n- org/own\n---\n")


def test_a_base_without_access_is_not_passed_over() -> None:
    """The card's base is not taken because the config's is gated: that would be another model."""
    hub = Repositories(**{**HUB, "org__config": AccessError("gated", advice="none", code="gated")})
    with pytest.raises(AccessError):
        base(hub, {"base_model_name_or_path": "org/config"}, card=CARD)


@pytest.mark.parametrize(
    "quantized",
    [
        {"config.json": QUANTIZED, "README.md": "---\nbase_model: org/own\n---\n"},
        {"config.json": {**QUANTIZED, "_name_or_path": "org/own"}},
        {
            "config.json": {**LLAMA, "text_config": QUANTIZED},
            "README.md": "---\nbase_model: [org/own]\n---\n",
        },
    ],
)
def test_a_quantised_repository_leads_to_its_parent(quantized: dict[str, Any]) -> None:
    hub = Repositories(**HUB, org__quantized=quantized)
    found = base(hub, {"base_model_name_or_path": "org/quantized"})
    assert found.model.pinned.location == "org/own"
    assert "quantised" in found.notes[0]


def test_a_quantised_repository_without_a_parent_is_refused() -> None:
    hub = Repositories(org__quantized={"config.json": {**QUANTIZED, "_name_or_path": "org/quantized"}})
    with pytest.raises(RefusedError) as refusal:
        base(hub, {"base_model_name_or_path": "org/quantized"})
    assert refusal.value.code == "base-quantized"


@pytest.mark.parametrize("config", [None, "[]", "{", "7"])
def test_a_base_without_a_config(config: str | None) -> None:
    hub = Repositories(org__config={} if config is None else {"config.json": config})
    with pytest.raises(InputError):
        base(hub, {"base_model_name_or_path": "org/config"})


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"architectures": 7}, "a list of names"),
        ({"architectures": "LlamaForCausalLM"}, "a list of names"),
        ({"architectures": [None]}, "a list of names"),
        ({"architectures": ["\ud800"]}, "half a character"),
        ({"dtype": 5}, "a dtype"),
        ({"text_config": {"torch_dtype": ["float32"]}}, "a dtype"),
        ({"num_hidden_layers": 10**9}, "10,000 layers"),
        ({"text_config": {"n_layer": 10**9}}, "10,000 layers"),
    ],
)
def test_a_config_that_says_what_no_model_has_is_refused(keys: dict[str, Any], word: str) -> None:
    """transformers would raise over it once all is merged, or would go on for days."""
    hub = Repositories(org__config={"config.json": {**LLAMA, **keys}})
    with pytest.raises(InputError) as refusal:
        base(hub, {"base_model_name_or_path": "org/config"})
    assert refusal.value.code == "base-config"
    assert word in refusal.value.sentence


@pytest.mark.parametrize(
    "keys", [{"architectures": None}, {"dtype": {"": "float32"}}, {"n_layer": 118, "per_layer": 10**6}]
)
def test_what_models_do_say_is_let_alone(keys: dict[str, Any]) -> None:
    hub = Repositories(org__config={"config.json": {**LLAMA, **keys}})
    assert base(hub, {"base_model_name_or_path": "org/config"}).config.items() >= keys.items()


def test_a_base_that_is_an_adapter_itself_is_refused() -> None:
    files = {"config.json": LLAMA, "adapter_config.json": {"peft_type": "LORA"}}
    with pytest.raises(RefusedError) as refusal:
        base(Repositories(org__config=files), {"base_model_name_or_path": "org/config"})
    assert refusal.value.code == "base-is-adapter"


def test_config_json_is_read_once() -> None:
    hub = Repositories(acme__base={"config.json": LLAMA})
    found = resolve(adapter(), adapter_config={}, override="acme/base", revision=None, hub=hub)
    assert found.config == LLAMA
    assert isinstance(found.model.files, Stored)
    assert found.model.files.reads == ["config.json"]


METHODS = [
    "bitsandbytes",
    "gptq",
    "awq",
    "fp8",
    "fbgemm_fp8",
    "compressed-tensors",
    "mxfp4",
    "quanto",
    "hqq",
    "torchao",
]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leads_to_the_parent(method: str) -> None:
    config = {**LLAMA, "quantization_config": {"quant_method": method}}
    hub = Repositories(
        **HUB, org__quantized={"config.json": config, "README.md": "---\nbase_model: org/own\n---\n"}
    )
    found = base(hub, {"base_model_name_or_path": "org/quantized"})
    assert found.model.pinned.location == "org/own"
    assert found.notes == (
        f"org/quantized is quantised ({method}): the merge goes into org/own, which it was made from",
    )


def test_a_parent_that_is_gone_is_a_refusal_with_both_ways_out() -> None:
    quantized = {"config.json": QUANTIZED, "README.md": "---\nbase_model: org/gone\n---\n"}
    with pytest.raises(RefusedError, match="org/gone") as refusal:
        base(Repositories(org__quantized=quantized), {"base_model_name_or_path": "org/quantized"})
    assert refusal.value.code == "base-quantized"
    assert "--base" in refusal.value.advice
    assert "--quantized-base dequantize" in refusal.value.advice


def test_a_gated_parent_is_not_passed_over() -> None:
    gated = AccessError("gated", advice="none", code="gated")
    quantized = {"config.json": QUANTIZED, "README.md": "---\nbase_model: org/own\n---\n"}
    with pytest.raises(AccessError):
        base(
            Repositories(org__own=gated, org__quantized=quantized),
            {"base_model_name_or_path": "org/quantized"},
        )


@pytest.mark.parametrize("relation", ["finetune", "adapter", "merge"])
def test_what_was_trained_and_then_quantised_has_no_original_there(relation: str) -> None:
    card = f"---\nbase_model: org/own\nbase_model_relation: {relation}\n---\n"
    hub = Repositories(**HUB, org__quantized={"config.json": QUANTIZED, "README.md": card})
    with pytest.raises(RefusedError, match="does not name"):
        base(hub, {"base_model_name_or_path": "org/quantized"})


@pytest.mark.parametrize(
    ("key", "value"), [("model_type", "qwen2"), ("hidden_size", 64), ("num_hidden_layers", 3)]
)
def test_a_parent_of_another_shape_is_none(key: str, value: object) -> None:
    sizes = {**LLAMA, "hidden_size": 32, "num_hidden_layers": 2}
    quantized = {"config.json": {**QUANTIZED, **sizes}, "README.md": "---\nbase_model: org/own\n---\n"}
    hub = Repositories(org__own={"config.json": {**sizes, key: value}}, org__quantized=quantized)
    with pytest.raises(RefusedError, match=key):
        base(hub, {"base_model_name_or_path": "org/quantized"})


def test_dequantising_keeps_the_quantised_repository_itself() -> None:
    quantized = {"config.json": QUANTIZED, "README.md": "---\nbase_model: org/own\n---\n"}
    hub = Repositories(**HUB, org__quantized=quantized)
    found = resolve(
        adapter(), adapter_config={}, override="org/quantized", revision=None, hub=hub, quantized="dequantize"
    )
    assert found.model.pinned.location == "org/quantized"
    assert found.config == QUANTIZED
