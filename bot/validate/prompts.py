"""What the models are asked, and how their answers are read: text where there is a tokenizer, else seeded numbers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import AutoTokenizer

from bot.validate.models import LOCAL

LONGEST = 32
ROWS = 4
PATIENCE = 10.0  # seconds for a chat template; an honest one takes milliseconds
TEXTS = (
    "The capital of France is Paris, and the capital of Japan is",
    "I bought this last week and it stopped working after two days. Very disappointed.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Wer anderen eine Grube gräbt, fällt selbst hinein; 机器学习是人工智能的一个分支。",
)
CHATS = TEXTS[:2]


class NoPromptsError(Exception):
    """Nothing to ask this model is at hand."""


def batches(
    folder: Path,
    *,
    model: Any,
    task: str | None,
    prompts: tuple[str, ...] | None,
    tokens: tuple[int, ...] = (),
) -> list[dict[str, Tensor]]:
    """One batch for each prompt, so that padding, and its side, are no matter.

    `tokens` are ids that must be among what is asked: an adapter that trains single tokens is silent on others.
    """
    name = getattr(model, "main_input_name", "input_ids")
    if name == "pixel_values":
        return _images(model.config)
    if name != "input_ids":
        raise NoPromptsError(f"there are none for models that take {name}")
    tokenizer = _tokenizer(folder)
    rows = (
        _encoded(tokenizer, prompts or TEXTS)
        if tokenizer is not None
        else _random_ids(model.config, task=task)
    )
    if prompts is None and tokenizer is not None and task == "CAUSAL_LM" and tokenizer.chat_template:
        rows += _chats(tokenizer)
    if tokens:
        rows.append(torch.tensor([tokens[:LONGEST]]))
    return [_with_decoder(row, config=model.config) for row in rows if row.numel()]


def trained_tokens(config: dict[str, Any]) -> tuple[int, ...]:
    """The ids of single tokens that an adapter's config says it trains."""
    found = config.get("trainable_token_indices") or config.get("token_indices") or ()
    lists = found.values() if isinstance(found, dict) else [found]
    return tuple(sorted({int(i) for ids in lists for i in ids}))


def _tokenizer(folder: Path) -> Any:
    if not any(
        (folder / name).exists() for name in ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")
    ):
        return None
    return AutoTokenizer.from_pretrained(folder, **LOCAL)


def _encoded(tokenizer: Any, prompts: tuple[str, ...]) -> list[Tensor]:
    return [
        tokenizer(t, return_tensors="pt", truncation=True, max_length=LONGEST)["input_ids"] for t in prompts
    ]


def _chats(tokenizer: Any) -> list[Tensor]:
    """The first prompts as a user's turn; templates that want something else (tools, documents) are left out."""
    rows: list[Tensor] = []
    for text in CHATS:
        try:
            with _in_time():
                filled = tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
        except Exception:  # noqa: BLE001  # a template is a program of its author's: it raises what it likes
            return rows
        encoded = tokenizer(filled, return_tensors="pt", add_special_tokens=False)["input_ids"]
        rows.append(encoded[:, :LONGEST])
    return rows


@contextmanager
def _in_time() -> Iterator[None]:
    """Raises TimeoutError in a template that does not end; transformers' sandbox lets it loop as long as it likes."""
    if threading.current_thread() is not threading.main_thread():  # signals arrive there only
        yield
        return

    def stop(*_: object) -> NoReturn:
        raise TimeoutError("the chat template does not end")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _random_ids(config: Any, *, task: str | None) -> list[Tensor]:
    """Seeded ids below the vocabulary's size, none of them special; classifiers' rows end as a text does."""
    text = config.get_text_config()
    special = {getattr(text, key, None) for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(text.vocab_size), (ROWS, LONGEST // 2), generator=generator)
    usual = next(i for i in range(int(text.vocab_size)) if i not in special)
    for odd in special:
        if isinstance(odd, int):
            ids[ids == odd] = usual
    end = getattr(text, "eos_token_id", None)
    if task == "SEQ_CLS" and isinstance(end, int):
        ids[:, -1] = end
    return (
        [ids] if task != "SEQ_CLS" else list(torch.split(ids, 1))
    )  # their heads want a pad token for a batch


def _with_decoder(ids: Tensor, *, config: Any) -> dict[str, Tensor]:
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(config, "is_encoder_decoder", False):
        candidates = (
            getattr(config, key, None) for key in ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        )
        start = next((c for c in candidates if isinstance(c, int)), 0)
        batch["decoder_input_ids"] = torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)
    return batch


def _images(config: Any) -> list[dict[str, Tensor]]:
    size = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
    generator = torch.Generator().manual_seed(0)
    shape = (1, getattr(config, "num_channels", 3), *size)
    return [{"pixel_values": torch.randn(shape, generator=generator)} for _ in range(ROWS)]


@torch.no_grad()
def answers(model: Any, rows: list[dict[str, Tensor]], *, device: str) -> list[Tensor]:
    """The model's main output for each batch, as float32 on the CPU, its last dimension kept."""
    model.eval()
    results = []
    with torch.backends.cudnn.flags(allow_tf32=False):  # convolutions, too, in full float32
        for row in rows:
            output = model(**{name: value.clone().to(device) for name, value in row.items()})
            results.append(_main(output).float().cpu())
    return results


def _main(output: Any) -> Tensor:
    """Logits, where there is a head; else the last hidden state, or the first tensor of numbers."""
    if getattr(output, "start_logits", None) is not None:
        return torch.stack([output.start_logits, output.end_logits], dim=1)
    for name in ("logits", "last_hidden_state"):
        if isinstance(value := getattr(output, name, None), Tensor):
            return value
    return next(value for value in output.values() if isinstance(value, Tensor) and value.is_floating_point())
