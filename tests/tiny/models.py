"""Tiny random models of real architectures, saved as the Hub has them; loading them and running them."""

import json
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tests.tiny.architectures import ARCHITECTURES, Architecture
from tests.tiny.inputs import RECIPES
from tests.tiny.tokenizers import CHAT_TEMPLATE, train_tokenizer

__all__ = ["ARCHITECTURES", "Architecture", "inputs", "load", "logits", "model_class", "save_base"]

#: Heads that PEFT's task types put on a base whose own config names another head, or none.
HEADS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}


def save_base(
    folder: Path,
    architecture: str,
    *,
    dtype: str = "float32",
    shards: int | None = None,
    tie: bool | None = None,
    seed: int = 0,
    tokenizer: bool = True,
) -> Path:
    """Build the architecture with random weights and save model, sidecars and tokenizer to `folder`."""
    entry = ARCHITECTURES[architecture]
    model = build(entry, tie=tie, seed=seed).to(getattr(torch, dtype))
    options = {"max_shard_size": _shard_size(model, shards)} if shards else {}
    model.save_pretrained(folder, **options)
    if tokenizer and entry.tokenizer:
        template = CHAT_TEMPLATE if entry.auto == "AutoModelForCausalLM" else None
        train_tokenizer(folder, kind=entry.tokenizer, chat_template=template)
    return folder


def build(entry: Architecture, *, tie: bool | None = None, seed: int = 0) -> PreTrainedModel:
    """The model itself, in float32, in evaluation mode."""
    sizes = entry.sizes if tie is None else entry.sizes | {"tie_word_embeddings": tie}
    config: PreTrainedConfig = getattr(transformers, entry.config)(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = getattr(transformers, entry.auto).from_config(config)
    fill(model, seed=seed)
    return cast(PreTrainedModel, model.eval())


@torch.no_grad()
def fill(model: PreTrainedModel, *, seed: int) -> None:
    """Give every parameter a value of its own, large enough that each layer is heard in the logits.

    The library starts with zero biases and unit norms: a tensor lost or swapped would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2 and not _is_structured(parameter):
            fan_in = parameter.shape[-1] if ".experts." in name else parameter[0].numel()
            parameter.copy_(noise / fan_in**0.5)
        else:
            parameter.add_(noise * 0.1)


def _is_structured(parameter: Tensor) -> bool:
    """Whether the rows follow a rule, as those of Mamba's `A_log` do (each row is log 1, log 2, …)."""
    return parameter.ndim == 2 and bool(parameter[0].std() > 0) and torch.equal(parameter[0], parameter[-1])


def _shard_size(model: PreTrainedModel, shards: int) -> int:
    """The smallest `max_shard_size` that gives no more than `shards` files (a tensor is never split)."""
    state = model.state_dict()
    low, high = 0, 2 * sum(int(tensor.nbytes) for tensor in state.values())
    while low + 1 < high:
        middle = (low + high) // 2
        plan = split_torch_state_dict_into_shards(state, max_shard_size=middle)
        low, high = (low, middle) if len(plan.filename_to_tensors) <= shards else (middle, high)
    return high


def load(
    folder: Path, *, auto: str | None = None, dtype: torch.dtype | None = None, **options: Any
) -> PreTrainedModel:
    """Load with the class that config.json names, or with `auto` (a class name of transformers)."""
    kind = getattr(transformers, auto) if auto else model_class(folder)
    return cast(PreTrainedModel, kind.from_pretrained(folder, dtype=dtype or "auto", **options).eval())


def model_class(folder: Path, *, task: str | None = None) -> Any:
    """The class with the head that the adapter's task type asks for, else the one that config.json names."""
    if task in HEADS:
        return getattr(transformers, HEADS[task])
    return getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])


def inputs(architecture: str, folder: Path, *, seed: int = 0) -> dict[str, Tensor]:
    """Forward inputs for the architecture: two rows, the second one padded; the same at each call."""
    entry = ARCHITECTURES[architecture]
    config = transformers.AutoConfig.from_pretrained(folder)
    return RECIPES[entry.needs](config, torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The main output in float32: the logits, or the last hidden state where there is no head."""
    output = model(**{name: value.clone() for name, value in batch.items()})
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if isinstance(value := getattr(output, name, None), Tensor):
            return value.float()
    raise TypeError(f"{type(output).__name__} has no main output that is known here")
