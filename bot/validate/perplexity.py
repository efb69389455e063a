"""The perplexity of base, base + adapter and merged on a text of the user's.

The limits, and why they are where they are: those of `bot.validate.answers`, applied to the loss of every token, so
that errors of two signs cannot make up for each other as they would in a mean. A token's loss is a logit less the
logsumexp of all logits, so it moves by at most twice the largest error of the logits.

* Weights in float32: the losses differ by the order of float32 operations only. Allowed: 1e-4 of the logits' scale, and
  1e-2 of the adapter's largest effect on a loss (or 1e-5 of that scale where the effect is smaller still).
* Weights in bfloat16 or float16: how far rounding moves the losses is measured, with the live model's weights replaced
  by the float64 reference rounded once. Allowed: 1.5 times that on average, twice at the worst token, plus float32's
  noise. A perfect merge has a ratio of 1.0.

A text is read in windows of the model's context, each half over the one before, so that every token but those of the
first window is predicted from at least half a window (https://huggingface.co/docs/transformers/perplexity).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bot.evidence import Perplexity
from bot.records import Check
from bot.validate.answers import Answers, distance, limit
from bot.validate.models import embedding_rows
from bot.validate.quiet import sentence

LONGEST = 1024  # tokens of a window
NUMBERS = 2**25  # logits of a window
MOST = 4096  # tokens of a text
CHARACTERS = 2**18  # that are read for them: no tokenizer makes one token of 64 in a language
CHUNK = 128  # tokens whose losses are computed at once
PROBE = 16


class UnscoredError(Exception):
    """Why a model has no perplexity on a text."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text: the ids of its tokens [tokens], how many are read at once, and whether there are more of them."""

    ids: Tensor
    window: int
    cut: bool
    sha256: str

    def windows(self) -> Iterator[tuple[int, int, int]]:
        """Where each window begins, where the tokens begin that are scored in it, and where both end."""
        scored, stride = 1, max(1, self.window // 2)
        for begin in range(0, len(self.ids), stride):
            end = min(begin + self.window, len(self.ids))
            if end > scored:
                yield begin, scored, end
                scored = end


def passage(text: str, *, tokenizer: Any, model: Any) -> Passage:
    """The text for this model, which is asked a little to see whether it predicts. Raises UnscoredError when not."""
    if getattr(model, "main_input_name", "input_ids") != "input_ids":
        raise UnscoredError(f"the model takes {model.main_input_name} and no text")
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnscoredError("an encoder-decoder answers a text, it does not go on with it")
    if not model.can_generate():
        raise UnscoredError(f"{type(model).__name__} does not predict the next token")
    if tokenizer is None:
        raise UnscoredError("the model has no tokenizer to read the text with")
    ids = tokenizer(text[:CHARACTERS], return_tensors="pt")["input_ids"][0].long()
    if len(ids) < 2:
        raise UnscoredError("the text has less than two tokens")
    try:
        predicts = _predicts(model, ids[:PROBE])
    except Exception as error:
        raise UnscoredError(f"the base does not answer ({sentence(error)})") from error
    if not predicts:
        raise UnscoredError("the model sees what comes after a token, so it does not predict")
    config = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    width = embedding_rows(model) or config.vocab_size
    return Passage(
        ids=ids[:MOST],
        window=max(2, min(LONGEST, context if isinstance(context, int) else LONGEST, NUMBERS // width)),
        cut=len(ids) > MOST or len(text) > CHARACTERS,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


@torch.no_grad()
def _predicts(model: Any, ids: Tensor) -> bool:
    """Whether another last token leaves the logits before it as they are."""
    both = ids.repeat(2, 1).to(model.device)
    both[1, -1] = (both[1, -1] + 1) % 2  # 0 or 1, and another one
    one, other = (
        model(input_ids=row[None], attention_mask=torch.ones_like(row[None])).logits for row in both
    )
    # Offloaded, the weights are not there yet and all logits are NaN: then the class alone has to tell.
    return bool(torch.allclose(one[:, :-1], other[:, :-1], rtol=1e-3, atol=1e-3, equal_nan=True))


@torch.no_grad()
def losses(model: Any, found: Passage, *, device: str) -> Tensor:
    """The loss of every token but the first, in nats, [tokens - 1], as float32 on the CPU."""
    result = []
    for begin, scored, end in found.windows():
        ids = found.ids[None, begin:end].to(device)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, scored - 1 - begin : -1]
        wanted = ids[0, scored - begin :]
        parts = zip(torch.split(logits, CHUNK), torch.split(wanted, CHUNK), strict=True)
        result += [cross_entropy(part.float(), ids, reduction="none").cpu() for part, ids in parts]
    return torch.cat(result)


def compare(found: Passage, expected: Answers, merged: Tensor, *, scale: float) -> tuple[Check, Perplexity]:
    """Check `perplexity`, and the figures. `expected` holds each model's losses, `scale` is that of its logits."""
    allowed, error = limit(expected, scale=scale), distance([merged], expected.live)
    good = error.worst <= allowed.worst and error.mean <= allowed.mean
    told = Perplexity(
        base=_perplexity(expected.base[0]),
        adapter=_perplexity(expected.live[0]),
        merged=_perplexity(merged),
        tokens=len(merged),
        window=found.window,
        cut=found.cut,
        sha256=found.sha256,
    )
    figure = (
        f"base {_shown(told.base)}, base + adapter {_shown(told.adapter)}, merged {_shown(told.merged)}"
        f" on {'the first ' if found.cut else ''}{told.tokens:,} tokens"
    )
    detail = f"The loss of a token differs by {error.mean:.2g} nats on average and {error.worst:.2g} at most"
    detail += "." if good else f"; allowed: {allowed.mean:.2g} and {allowed.worst:.2g}."
    return Check(
        name="perplexity", verdict="passed" if good else "failed", figure=figure, detail=detail
    ), told


def _perplexity(losses: Tensor) -> float | None:
    mean = float(losses.double().mean())
    return float(f"{math.exp(mean):.6g}") if mean < 100 else None


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.5g}"
