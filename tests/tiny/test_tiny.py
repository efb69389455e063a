"""The tiny models and adapters themselves: they build, they answer, adapters show, and all is repeatable."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from tests.tiny.adapters import edit_config, live, rewrite_weights, save_adapter
from tests.tiny.architectures import ARCHITECTURES
from tests.tiny.models import inputs, load, logits, save_base
from tests.tiny.tokenizers import CHAT_TEMPLATE, VOCAB_SIZE, train_tokenizer
from tests.tiny.variants import LORA_VARIANTS, SUITS, TUNERS

Bases = Callable[[str], Path]
#: Built in the quick run; the others are slow by their number only.
QUICK = ("llama", "gpt2", "opt", "bert_seqcls", "t5", "qwen3_moe", "vit", "qwen2_vl")
QUICK_CONFIGS = ("plain", "dora", "embedding", "target_parameters", "IA3", "OFT", "VERA", "PREFIX_TUNING")
CONFIGS = LORA_VARIANTS | TUNERS
TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Base folders, each built once."""
    root = tmp_path_factory.mktemp("bases")

    def base(architecture: str) -> Path:
        folder = root / architecture
        return folder if folder.exists() else save_base(folder, architecture)

    return base


def _split(names: Iterable[str], quick: tuple[str, ...]) -> list[object]:
    """The names as parameters, those that are not quick marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def _batch(architecture: str, base: Path, config: str) -> dict[str, Tensor]:
    """Inputs, with the task ids that multi-task tuners want."""
    tasks = {"task_ids": torch.zeros(2, dtype=torch.long)} if config in TASKS else {}
    return inputs(architecture, base) | tasks


@pytest.mark.parametrize("architecture", _split(ARCHITECTURES, QUICK))
def test_architecture_answers_and_its_adapter_shows(architecture: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(architecture)
    batch = inputs(architecture, base)
    answer = logits(load(base), batch)
    assert answer.isfinite().all()
    assert answer.std() > 0.05
    adapter = save_adapter(tmp_path, base, config={"r": 4}, architecture=architecture)
    assert _effect(live(base, adapter), batch, answer) > 0.02


@pytest.mark.parametrize("architecture", [name for name, entry in ARCHITECTURES.items() if entry.parameters])
@pytest.mark.slow
def test_expert_parameters_take_lora(architecture: str, bases: Bases, tmp_path: Path) -> None:
    base, entry = bases(architecture), ARCHITECTURES[architecture]
    config = {"r": 2, "target_modules": [], "target_parameters": list(entry.parameters)}
    adapter = save_adapter(tmp_path, base, config=config)
    batch = inputs(architecture, base)
    assert _effect(live(base, adapter), batch, logits(load(base), batch)) > 0.02


@pytest.mark.parametrize("name", _split(CONFIGS, QUICK_CONFIGS))
def test_config_builds_shows_and_reloads(name: str, bases: Bases, tmp_path: Path) -> None:
    architecture = SUITS.get(name, "llama")
    base = bases(architecture)
    adapter = save_adapter(tmp_path, base, config=CONFIGS[name], architecture=architecture)
    batch = _batch(architecture, base, name)
    first = logits(live(base, adapter), batch)
    assert torch.equal(first, logits(live(base, adapter), batch))
    if first.ndim == 3 and CONFIGS[name].get("task_type") != "TOKEN_CLS":
        original = logits(load(base), inputs(architecture, base))
        assert _distance(first, original) > 0.01


def test_every_peft_type_has_a_config() -> None:
    covered = {name.partition(".")[0] for name in TUNERS}
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} - covered == {"XLORA"}


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_base(tmp_path / name, "bert_model", shards=2)
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")
    for name in ("three", "four"):
        save_adapter(tmp_path / name, tmp_path / "one", config={"r": 2, "target_modules": ["query"]})
    assert _digests(tmp_path / "three") == _digests(tmp_path / "four")


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_shards_and_dtype_are_as_asked(shards: int, tmp_path: Path) -> None:
    save_base(tmp_path, "llama_tied", dtype="bfloat16", shards=shards)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == shards
    assert {tensor.dtype for file in files for tensor in load_file(file).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("tie", [True, False])
def test_tie_decides_about_the_head(tie: bool, tmp_path: Path) -> None:
    save_base(tmp_path, "gpt2", tie=tie)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tie


def test_bpe_keeps_any_text(tmp_path: Path) -> None:
    train_tokenizer(tmp_path, chat_template=CHAT_TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "naïve 你好, мир! 🦊\n\tdon't  stop"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer) == VOCAB_SIZE
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<s>user: hi</s>\n"


def test_adapter_folder_can_be_edited(bases: Bases, tmp_path: Path) -> None:
    config = {"r": 2, "target_modules": ["q_proj"]}
    adapter = save_adapter(tmp_path, bases("llama"), config=config, base_name="org/base", dtype="float16")
    edit_config(adapter, r=3, lora_dropout=...)
    edited = json.loads((adapter / "adapter_config.json").read_text())
    assert edited["base_model_name_or_path"] == "org/base"
    assert edited["r"] == 3
    assert "lora_dropout" not in edited
    rewrite_weights(adapter, lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()})
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert all(name.startswith("module.") for name in tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_a_new_head_has_the_asked_number_of_labels(bases: Bases, tmp_path: Path) -> None:
    base = bases("bert_model")
    adapter = save_adapter(tmp_path, base, config=LORA_VARIANTS["token_cls"], num_labels=7)
    model = live(base, adapter, num_labels=7)
    assert logits(model, inputs("bert_model", base)).shape[-1] == 7


def _effect(model: PeftModel, batch: dict[str, Tensor], original: Tensor) -> float:
    return _distance(logits(model, batch), original)


def _distance(answer: Tensor, original: Tensor) -> float:
    """Relative distance over the last positions, as prompt tuners put their own positions in front."""
    return float((answer[:, -original.shape[1] :] - original).norm() / original.norm())


def _digests(folder: Path) -> dict[str, str]:
    """File name to digest; README.md, which PEFT writes, included."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
