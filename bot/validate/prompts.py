"""What the models are asked (prompts in words, seeded ids, pictures, sounds), and how their answers are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bot.validate.media import media

LONGEST = 32
ROWS = 4
KEPT = 2**21  # numbers of one prompt's answer


class NoPromptsError(Exception):
    """Nothing to ask this model is at hand."""


def batches(
    prompts: Sequence[Tensor], *, folder: Path, model: Any, task: str | None, tokens: tuple[int, ...] = ()
) -> list[dict[str, Tensor]]:
    """One batch for each prompt's ids, [1, tokens], so that padding, and its side, are no matter.

    `folder` may hold the config of a processor of pictures or sounds. `tokens` are ids that must be among what is
    asked: an adapter that trains single tokens is silent on others.
    """
    rows = [*prompts] or _random_ids(model.config, task=task)
    if tokens:
        rows.append(torch.tensor([tokens[:LONGEST]]))
    shown, instead = media(folder, model=model, texts=rows)
    if instead and not shown:
        raise NoPromptsError(f"there are none for models that take {model.main_input_name}")
    return shown if instead else [_with_decoder(row, config=model.config) for row in rows] + shown


def trained_tokens(config: dict[str, Any]) -> tuple[int, ...]:
    """The ids of single tokens that an adapter's config says it trains."""
    found = config.get("trainable_token_indices") or config.get("token_indices") or ()
    lists = found.values() if isinstance(found, dict) else [found]
    return tuple(sorted({int(i) for ids in lists for i in ids}))


def _random_ids(config: Any, *, task: str | None) -> list[Tensor]:
    """Seeded ids below the vocabulary's size, none of them special; classifiers' rows end as a text does.

    None for a model without words.
    """
    text = config.get_text_config()
    if getattr(text, "vocab_size", None) is None:
        return []
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


@torch.no_grad()
def answers(model: Any, rows: list[dict[str, Tensor]], *, device: str) -> list[Tensor]:
    """The model's main output for each batch, as float32 on the CPU, its last dimension kept."""
    model.eval()
    results = []
    with torch.backends.cudnn.flags(allow_tf32=False):  # convolutions, too, in full float32
        for row in rows:
            output = model(**{name: value.clone().to(device) for name, value in row.items()})
            results.append(_end(_main(output)).float().cpu())
    return results


def _end(answer: Tensor) -> Tensor:
    """Of a long prompt [1, tokens, numbers] the last tokens, which have seen the others, so that memory is bounded."""
    return answer[:, -max(LONGEST // 2, KEPT // answer.shape[-1]) :] if answer.ndim == 3 else answer


def _main(output: Any) -> Tensor:
    """Logits, where there is a head; else the last hidden state, or the first tensor of numbers."""
    if getattr(output, "start_logits", None) is not None:
        return torch.stack([output.start_logits, output.end_logits], dim=1)
    for name in ("logits", "last_hidden_state"):
        if isinstance(value := getattr(output, name, None), Tensor):
            return value
    return next(value for value in output.values() if isinstance(value, Tensor) and value.is_floating_point())
