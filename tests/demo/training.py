"""Chapters one to three: a Hub, a base model on it, and an adapter, all made here."""

import torch
from huggingface_hub import HfApi
from rich.text import Text
from transformers import AutoTokenizer

from . import lessons, texts
from .home import ADAPTER, BASE, Home
from .judge import perplexity
from .show import Show

BASE_STEPS = 180
ADAPTER_STEPS = 120
CARD = """---
license: cc0-1.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags:
- fairy-tales
---
# tiny-llama

A very small Llama that tells village tales. Trained within seconds, from texts that a grammar wrote.
"""


def play(show: Show, home: Home) -> None:
    torch.set_num_threads(1)  # matrices this small only lose time to more
    _hub(show, home)
    _base(show, home)
    _adapter(show, home)


def _hub(show: Show, home: Home) -> None:
    show.chapter(
        "A Hub of our own",
        f"A small Hugging Face Hub is up at {home.hub.url}: no network, no token of yours.",
        "The real huggingface_hub client talks to it, for transformers, for PEFT, and for merge-bot.",
    )


def _base(show: Show, home: Home) -> None:
    stories = texts.tales(1500, seed=0)
    show.chapter("A base model", "A tiny Llama learns village tales, from nothing:")
    show.panel("one of the tales", Text(stories[0]))
    words = lessons.tokenizer(stories + texts.log(600, seed=1))
    model = lessons.base(words, stories, steps=BASE_STEPS, tell=_teller(show))
    folder = home.folder / "tiny-llama"
    lessons.save(model, words, folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    api = HfApi()
    api.create_repo(BASE)
    api.upload_folder(repo_id=BASE, folder_path=folder, commit_message="A tiny Llama that tells tales")
    count = sum(parameter.numel() for parameter in model.parameters())
    shards = [name for name in api.list_repo_files(BASE) if name.endswith(".safetensors")]
    show.promise(
        f"[bold]{BASE}[/] is on the Hub: {count:,} parameters in {len(shards)} shards, licence CC0.",
        kept=len(shards) == 2,
    )


def _adapter(show: Show, home: Home) -> None:
    entries = texts.log(600, seed=1)
    show.chapter("An adapter", "A LoRA (r=8, all linear layers) teaches it to keep a ship's log:")
    show.panel("one of the entries", Text(entries[0]))
    words = AutoTokenizer.from_pretrained(BASE)
    model = lessons.adapter(BASE, words, entries, steps=ADAPTER_STEPS, tell=_teller(show))
    after = perplexity(model, words, texts.held_out())
    with model.disable_adapter():
        before = perplexity(model, words, texts.held_out())
    show.promise(
        f"On entries it has not seen, perplexity falls from {before:.1f} to {after:.2f}.",
        kept=after < before / 2,
    )
    api, folder = HfApi(), home.folder / "tiny-llama-logbook"
    model.save_pretrained(folder)
    api.create_repo(ADAPTER)
    api.upload_folder(repo_id=ADAPTER, folder_path=folder, commit_message="A LoRA that keeps a ship's log")
    files = api.list_repo_files(ADAPTER)
    show.promise(
        f"[bold]{ADAPTER}[/] is on the Hub, as PEFT saves it: an adapter, not a model.",
        kept="adapter_model.safetensors" in files and "config.json" not in files,
    )


def _teller(show: Show) -> lessons.Tell:
    first: list[float] = []

    def tell(step: int, steps: int, loss: float) -> None:
        first.append(loss)
        show.loss(step, steps, loss, first=first[0])

    return tell
