"""How well a model knows the log, and how it goes on from the prompt. Knows nothing of adapters."""

from dataclasses import dataclass

import torch

from .texts import PROMPT, held_out

ANSWER_TOKENS = 36


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`perplexity` is measured on held-out entries of the log; `answer` is greedy."""

    perplexity: float
    tokens: list[int]
    answer: str


def judge(model, tokenizer) -> Verdict:
    """Asks the model, in evaluation mode."""
    model.eval()
    found = perplexity(model, tokenizer, held_out())
    tokens = greedy(model, tokenizer)
    return Verdict(perplexity=found, tokens=tokens, answer=tokenizer.decode(tokens, skip_special_tokens=True))


@torch.no_grad()
def perplexity(model, tokenizer, texts: list[str]) -> float:
    """Over all tokens of the texts, each text on its own."""
    model.eval()
    total, count = 0.0, 0
    for first in range(0, len(texts), 16):
        batch = tokenizer(texts[first : first + 16], return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        known = int((labels[:, 1:] != -100).sum())
        total += float(model(**batch, labels=labels).loss) * known
        count += known
    return float(torch.tensor(total / count).exp())


@torch.no_grad()
def greedy(model, tokenizer) -> list[int]:
    """The most likely continuation of the prompt, without the prompt."""
    batch = tokenizer(PROMPT, return_tensors="pt")
    made = model.generate(**batch, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    return made[0, batch["input_ids"].shape[1] :].tolist()
