"""Prompts in words → ids: the user's own or ours, chats through the tokenizer's template."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor
from transformers import AutoTokenizer

from bot.request import Prompt, Turn
from bot.validate.models import LOCAL
from bot.validate.quiet import sentence
from bot.wording import counted

LONGEST = 32  # tokens of a prompt of ours
OWN = 256  # of one of the user's
MOST = 16  # of the user's: a comparison, no benchmark
PATIENCE = 10.0  # seconds for a chat template; an honest one takes milliseconds
TEXTS = (
    "The capital of France is Paris, and the capital of Japan is",
    "I bought this last week and it stopped working after two days. Very disappointed.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Wer anderen eine Grube gräbt, fällt selbst hinein; 机器学习是人工智能的一个分支。",
)
CHATS = tuple(Prompt(chat=(Turn(role="user", content=text),)) for text in TEXTS[:2])
CONTINUED = (Prompt(text=TEXTS[0]), CHATS[0])  # those that are shown to go on


@dataclass(frozen=True, kw_only=True)
class Start:
    """A prompt and its ids, [1, tokens]; `cut`: there were more of them."""

    prompt: Prompt
    ids: Tensor
    cut: bool


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in a model's folder; None without one."""
    if not any(
        (folder / name).exists() for name in ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")
    ):
        return None
    return AutoTokenizer.from_pretrained(folder, **LOCAL)


def ours(tokenizer: Any, *, task: str | None) -> list[Start]:
    """The usual prompts; chats where there is a template, unless it wants something else (tools, documents)."""
    starts = []
    chats = CHATS if task == "CAUSAL_LM" and tokenizer.chat_template else ()
    for prompt in (*(Prompt(text=text) for text in TEXTS), *chats):
        try:
            starts.append(_start(tokenizer, prompt, longest=LONGEST))
        except Exception:  # noqa: BLE001  # a template is a program of its author's; some tokenizers want words and boxes
            break
    return [start for start in starts if start.ids.numel()]


def own(tokenizer: Any, prompts: Sequence[Prompt], *, longest: int = OWN) -> tuple[list[Start], list[str]]:
    """The user's prompts, and in sentences what was left out or cut of them."""
    starts: list[Start] = []
    refused: list[str] = []
    for prompt in prompts[:MOST]:
        if prompt.chat and not tokenizer.chat_template:
            refused.append("the tokenizer has no chat template")
            continue
        try:
            start = _start(tokenizer, prompt, longest=longest)
        except Exception as error:  # noqa: BLE001  # the same
            refused.append(sentence(error))
            continue
        starts += [start] if start.ids.numel() else []
        refused += [] if start.ids.numel() else ["the tokenizer makes no token of it"]
    cut = sum(start.cut for start in starts)
    told = [f"Asked: the first {MOST} of {len(prompts):,}."] if len(prompts) > MOST else []
    told += [f"Cut to {longest} tokens: {counted(cut, 'prompt')}."] if cut else []
    told += [f"Left out: {counted(len(refused), 'prompt')} ({refused[0]})."] if refused else []
    return starts, told


def _start(tokenizer: Any, prompt: Prompt, *, longest: int) -> Start:
    """Raises whatever a chat template raises."""
    text, ours = (
        (_filled(tokenizer, prompt), {"add_special_tokens": False}) if prompt.chat else (prompt.text, {})
    )
    ids = tokenizer(text, return_tensors="pt", **ours)["input_ids"]
    cut = ids.shape[1] > longest
    if cut:  # the special tokens at the end stay
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest, **ours)["input_ids"]
    return Start(prompt=prompt, ids=ids.long(), cut=cut)


def _filled(tokenizer: Any, prompt: Prompt) -> str:
    with _in_time():
        filled: str = tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in prompt.chat],
            tokenize=False,
            add_generation_prompt=True,
        )
    return filled


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
