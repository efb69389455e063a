"""How base, base + adapter and merged go on from the same prompts, side by side: always by the most likely token.

No sampling, no beam, no penalty: what a model's own generation config says of these is left out, for all three alike.
Where base + adapter and merged part, one of them takes another token as the most likely one. That is a tie, and no
fault, where base + adapter's logits of the two are no further apart than twice the largest difference that is allowed
(`bot.validate.answers` says what is, and why), or where a perfect merge, rounded once, takes the same turn: a router of
experts can make much of one rounding. After it the two texts have nothing to do with each other. Anything else fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig

from bot.evidence import Continuation
from bot.records import Check
from bot.validate.texts import Start

NEW = 20  # tokens
TOP = 16  # most likely ones that are remembered at each place
SHOWN = 400  # characters
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True, kw_only=True)
class Continued:
    """The ids of the new tokens, and at the place of each the most likely ones: ids and logits, [TOP]."""

    ids: list[int]
    tops: list[tuple[Tensor, Tensor]]

    def gap(self, place: int, *, token: int) -> float:
        """How far the token's logit is below the largest one there; at least so far, where it is not among the top."""
        ids, logits = self.tops[place]
        found = (ids == token).nonzero()
        return float(logits[0] - logits[int(found[0]) if len(found) else -1])


def greedy(model: Any) -> GenerationConfig | None:
    """How to go on: greedily, to the end of the text or NEW tokens. None for models that make no text of text."""
    if getattr(model, "main_input_name", "") != "input_ids" or not model.can_generate():
        return None
    own = model.generation_config
    ends = {name: value for name in ENDS if (value := getattr(own, name, None)) is not None}
    kind: Any = GenerationConfig  # it carries no types
    how: GenerationConfig = kind(max_new_tokens=NEW, do_sample=False, num_beams=1, **ends)
    return how


@torch.no_grad()
def go_on(
    model: Any, starts: Sequence[Start], *, how: GenerationConfig, device: str
) -> tuple[Continued, ...]:
    """What the model, a plain one or with PEFT's layers in it, makes of each prompt."""
    model.generation_config = how  # `generate` fills gaps from there: the model's own would slip in
    result = []
    for start in starts:
        ids = start.ids.to(device)
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=how,
            return_dict_in_generate=True,
            output_logits=True,
        )
        tops = [step[0].float().topk(min(TOP, step.shape[-1])) for step in made.logits]
        result.append(
            Continued(
                ids=made.sequences[0, -len(tops) :].tolist(),
                tops=[(top.indices.cpu(), top.values.cpu()) for top in tops],
            )
        )
    return tuple(result)


def compare(
    starts: Sequence[Start], *, base: Sequence[Continued], live: Sequence[Continued], merged: Sequence[Continued],
    rounded: Sequence[Continued] | None, limit: float, tokenizer: Any,
) -> tuple[Check, tuple[Continuation, ...]]:  # fmt: skip
    """Check `continuations`, and the texts. `limit`: the largest difference of logits that is allowed.

    `rounded`: how a perfectly rounded merge goes on; None where nothing is rounded.
    """
    perfect_ones: Sequence[Continued | None] = rounded or [None] * len(live)
    found = [
        _agreement(one, two, perfect=perfect, limit=limit)
        for one, two, perfect in zip(live, merged, perfect_ones, strict=True)
    ]
    texts = ([_text(tokenizer, each.ids) for each in side] for side in (base, live, merged))
    told = tuple(
        Continuation(
            prompt=_short(start.prompt.shown), base=one, adapter=two, merged=three, agreement=agreement
        )
        for start, one, two, three, agreement in zip(starts, *texts, found, strict=True)
    )
    ties, others = found.count("tie"), found.count("other")
    figure = f"{found.count('same')} of {len(found)} the same, up to {NEW} tokens each"
    apart = sum(one.ids != other.ids for one, other in zip(base, live, strict=True))
    detail = f"The base goes on otherwise in {apart}."
    detail += f" {ties} part where rounding decides between two tokens." if ties else ""
    detail = f"{others} part from base + adapter where there was no tie." if others else detail
    return Check(
        name="continuations", verdict="failed" if others else "passed", figure=figure, detail=detail
    ), told


def _agreement(
    live: Continued, merged: Continued, *, perfect: Continued | None, limit: float
) -> Literal["same", "tie", "other"]:
    place = next((i for i, (a, b) in enumerate(zip(live.ids, merged.ids, strict=False)) if a != b), None)
    if place is None:
        return "same" if len(live.ids) == len(merged.ids) else "other"
    alike = perfect is not None and perfect.ids[: place + 1] == merged.ids[: place + 1]
    return "tie" if alike or live.gap(place, token=merged.ids[place]) <= 2 * limit else "other"


def _text(tokenizer: Any, ids: list[int]) -> str:
    return _short(tokenizer.decode(ids, skip_special_tokens=True))


def _short(text: str) -> str:
    known = text.encode(errors="replace").decode()  # a tokenizer of Python may leave half a pair
    return known if len(known) <= SHOWN else known[: SHOWN - 1] + "…"
