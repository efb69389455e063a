"""What every model is asked, the same of each, and what it said."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig

from bot.evidence import Pace
from bot.records import Check, Plan
from bot.request import MergeRequest
from bot.validate import continuations, perplexity
from bot.validate.answers import Answers
from bot.validate.continuations import Continued
from bot.validate.perplexity import Passage, UnscoredError
from bot.validate.prompts import answers, batches, trained_tokens
from bot.validate.quiet import sentence
from bot.validate.speed import pace
from bot.validate.texts import CONTINUED, OWN, Start, ours, own, tokenizer_of

T = TypeVar("T")
HEADED = re.compile(r"For[A-Z]")  # of transformers' classes: BertForMaskedLM has a head, BertModel none


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one model said: its answers, the loss of each token of the text, and how it goes on from the prompts.

    `silent`: why it did not do one of the last two, by the name of the check. `pace`: how fast it generates.
    """

    answers: list[Tensor]
    losses: Tensor | None = None
    continued: tuple[Continued, ...] = ()
    silent: dict[str, str] = field(default_factory=dict)
    pace: Pace | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the base, base + adapter and a perfectly rounded merge said (None: nothing is rounded)."""

    base: Told
    live: Told
    rounded: Told | None

    @property
    def answers(self) -> Answers:
        """The answers alone."""
        rounded = self.rounded.answers if self.rounded else None
        return Answers(base=self.base.answers, live=self.live.answers, rounded=rounded)

    @property
    def losses(self) -> Answers | None:
        """The losses alone; None without a text."""
        base, live, rounded = (told.losses if told else None for told in (self.base, self.live, self.rounded))
        if base is None or live is None:
            return None
        return Answers(base=[base], live=[live], rounded=None if rounded is None else [rounded])


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Batches to answer, a text to score, prompts to go on from. `notes`: checks that were skipped, and why.

    `features`: the answers are no scores, as the model has no head.
    """

    rows: list[dict[str, Tensor]]
    passage: Passage | None
    starts: tuple[Start, ...]
    greedy: GenerationConfig | None
    tokenizer: Any
    features: bool
    device: str
    notes: tuple[Check, ...]

    def ask(self, model: Any, *, timed: bool = False) -> Told:
        """Asks a model, plain or of PEFT, that is on the device. Raises what it raises on the rows."""
        silent: dict[str, str] = {}
        told = answers(model, self.rows, device=self.device)
        losses = _tried(partial(self._losses, model), name="perplexity", silent=silent)
        continued = _tried(partial(self._continued, model), name="continuations", silent=silent) or ()
        quick = pace(model, self.rows, device=self.device) if timed else None
        return Told(answers=told, losses=losses, continued=continued, silent=silent, pace=quick)

    def _losses(self, model: Any) -> Tensor | None:
        return perplexity.losses(model, self.passage, device=self.device) if self.passage else None

    def _continued(self, model: Any) -> tuple[Continued, ...]:
        if self.greedy is None:
            return ()
        plain = model.get_base_model() if isinstance(model, PeftModel) else model  # PEFT's layers are in it
        return continuations.go_on(plain, self.starts, how=self.greedy, device=self.device)


def _tried(look: Callable[[], T], *, name: str, silent: dict[str, str]) -> T | None:
    """What `look` finds; where it raises, why, in `silent`: the comparison says what that means."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001  # models with caches or kernels of their own raise what they like
        silent[name] = sentence(error)
        return None


def questions(folder: Path, *, model: Any, plan: Plan, request: MergeRequest, device: str) -> Questions:
    """The questions for a model like this one, whose tokenizer lies in `folder`. Raises NoPromptsError without any."""
    notes: list[str] = []
    readable = getattr(model, "main_input_name", "input_ids") == "input_ids"
    tokenizer = tokenizer_of(folder) if readable else None
    starts: list[Start] = []
    if request.prompts and tokenizer is not None:
        starts, notes = own(tokenizer, request.prompts, longest=_room(model))
    elif request.prompts:
        notes = [
            "The model takes no text." if not readable else "The model has no tokenizer to read them with."
        ]
    mine = bool(starts)
    if tokenizer is not None and not mine:
        starts = ours(tokenizer, task=plan.task_type)
    skipped = [Check(name="prompts", verdict="skipped", figure="", detail=" ".join(notes))] if notes else []
    configs = [p.adapter_config for p in (plan.stages or (plan,))]
    tokens = tuple(sorted({token for config in configs for token in trained_tokens(config)}))
    texts = [start.ids for start in starts]
    rows = batches(texts, folder=folder, model=model, task=plan.task_type, tokens=tokens)
    passage = None
    if request.text:
        try:
            passage = perplexity.passage(request.text, tokenizer=tokenizer, model=model)
        except UnscoredError as error:
            skipped.append(_no_perplexity(str(error)))
    greedy = continuations.greedy(model) if starts else None
    return Questions(
        rows=rows,
        passage=passage,
        starts=tuple(s for s in starts if mine or s.prompt in CONTINUED) if greedy else (),
        greedy=greedy,
        tokenizer=tokenizer,
        features=not model.can_generate() and not HEADED.search(type(model).__name__),
        device=device,
        notes=tuple(skipped),
    )


def _room(model: Any) -> int:
    """How many tokens a prompt may have, so that there is some for what follows it."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return max(2, min(OWN, context - continuations.NEW)) if isinstance(context, int) else OWN


def _no_perplexity(why: str) -> Check:
    detail = f"No perplexity: {why}."
    return Check(name="perplexity", verdict="skipped", figure="", detail=detail)
