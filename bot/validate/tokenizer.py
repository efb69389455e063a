"""The merged tokenizer: it loads, says the same as its source, and the embedding has a row for each of its tokens."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bot.records import Check, Plan
from bot.validate.models import LOCAL, embedding_rows, meta_model
from bot.validate.quiet import guarded, quiet, sentence
from bot.wording import counted

SAMPLE = (
    "The quick brown fox, 12 + 34 = 46!",
    "Größe, naïve façade – “quotes”",
    "Быстрая лиса прыгает",
    "敏捷的棕色狐狸跳过了懒狗。",
    "すばやい茶色の狐",
    "الثعلب البني السريع",
    "हिन्दी में एक वाक्य",
    "def f(x):\n\treturn x ** 2",
    "🦊👩‍🚀  two  spaces",
)
TOKENIZER = (  # how the names of its files begin
    "tokenizer", "vocab.", "merges.txt", "spiece.model", "sentencepiece", "special_tokens_map", "added_tokens",
    "tekken.json", "source.spm", "target.spm", "bpe.codes", "normalizer.json",
)  # fmt: skip

SETTINGS = ("padding_side", "truncation_side", "model_max_length", "add_bos_token", "add_eos_token")
CALLED = {"padding", "truncation"}  # set by each call


def check_tokenizer(merged: Path, *, plan: Plan, origins: dict[str, Path | None]) -> list[Check]:
    """Checks `tokenizer`, `vocabulary` and `chat_template`; the last only where there is a source to compare with."""
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            mine = AutoTokenizer.from_pretrained(merged, **LOCAL)
            source = _source_tokenizer(Path(folder), plan=plan, origins=origins)
    except Exception as error:  # noqa: BLE001  # strangers' files make libraries raise anything
        return [Check(name="tokenizer", verdict="failed", figure="", detail=sentence(error) + ".")]
    good = "It loads." if source is None else "It turns texts into the same tokens as its source, and back."
    checks = [guarded("tokenizer", lambda: _round_trip(mine, source), good=good)]

    def vocabulary() -> tuple[list[str], str]:
        return _vocabulary(merged, mine, source, plan=plan, base_folder=origins["base"])

    good = "No token lacks a row of the embedding that it has in the base."
    checks.append(guarded("vocabulary", vocabulary, good=good))
    if source is not None:
        good = "The same as its source's."
        checks.append(guarded("chat_template", lambda: _template(mine, source), good=good))
    return checks


def _source_tokenizer(folder: Path, *, plan: Plan, origins: dict[str, Path | None]) -> Any:
    """The tokenizer that the plan's sources make, put together in a folder of its own; None without sources."""
    if None in origins.values():
        return None
    config = origins["base"] / "config.json" if origins["base"] else None
    if config and config.exists():
        (folder / "config.json").symlink_to(config.resolve())
    for sidecar in plan.sidecars:
        origin = origins[sidecar.origin]
        if (
            origin
            and "/" not in sidecar.name
            and sidecar.name != "config.json"
            and (origin / sidecar.name).is_file()
        ):
            (folder / sidecar.name).symlink_to((origin / sidecar.name).resolve())
    return AutoTokenizer.from_pretrained(folder, **LOCAL)


def _round_trip(mine: Any, source: Any) -> tuple[list[str], str]:
    """The same ids and the same text back as from the source's tokenizer."""
    problems, back = [], 0
    for text in SAMPLE:
        ids, again, plain = _read(mine, text)
        back += plain == text
        if source is None and ids is None:
            problems.append(f"It takes no text: {again}.")
        elif source is not None and (ids, again, plain) != _read(source, text):
            problems.append(f"{text!r} is tokenized differently.")
    if source is not None and mine.special_tokens_map != source.special_tokens_map:
        problems.append("The special tokens differ.")
    if source is not None and mine.get_vocab() != source.get_vocab():
        problems.append(
            f"The vocabulary has {len(mine)} entries instead of the source's {len(source)}, or other ones."
        )
    if source is not None and not problems and (odd := _odd_parts(mine, source)):
        problems.append(f"Loaded, it differs from its source in {', '.join(odd)}.")
    return problems, f"{counted(len(mine), 'token')}, {back} of {len(SAMPLE)} texts come back as they were"


def _read(tokenizer: Any, text: str) -> tuple[list[int] | None, str, str | None]:
    """Ids, and the text back with special tokens and without; of one that wants words and boxes, what it says."""
    try:
        ids = tokenizer(text)["input_ids"]
    except (AssertionError, TypeError, ValueError) as error:
        return None, sentence(error), None
    return ids, tokenizer.decode(ids), tokenizer.decode(ids, skip_special_tokens=True)


def _odd_parts(mine: Any, source: Any) -> list[str]:
    """What differs in two loaded tokenizers, however their files were written."""
    odd = [name for name in SETTINGS if getattr(mine, name, None) != getattr(source, name, None)]
    parts = [
        json.loads(t.backend_tokenizer.to_str()) for t in (mine, source) if hasattr(t, "backend_tokenizer")
    ]
    if len(parts) == 2:
        names = (parts[0].keys() | parts[1].keys()) - CALLED
        odd += sorted(name for name in names if parts[0].get(name) != parts[1].get(name))
    return odd


def _vocabulary(
    merged: Path, mine: Any, source: Any, *, plan: Plan, base_folder: Path | None
) -> tuple[list[str], str]:
    """The embedding has a row for every token (or the base's own tokenizer is just as odd), and none is lost."""
    rows = embedding_rows(meta_model(merged, plan.model_class))
    before = embedding_rows(meta_model(base_folder, plan.model_class)) if base_folder else None
    problems = []
    if rows is None:
        return [], "no embedding"
    if before is not None and rows < before:
        problems.append(
            f"The embedding has {rows} rows and the base's has {before}: the vocabulary was shrunk."
        )
    asked = any(edit.key.endswith("vocab_size") for edit in plan.config_edits)
    if before is not None and rows > before and not asked:
        problems.append(
            f"The embedding has {rows} rows and the base's has {before}: it was resized (as pad_to_multiple_of does),"
            " which the adapter does not ask for."
        )
    borrowed = all(s.origin == "base" for s in plan.sidecars if s.name.startswith(TOKENIZER))
    inherited = borrowed and rows == before and source is not None and len(mine) == len(source)
    told = any("as the base's own" in note for note in plan.notes)  # planning has compared the two
    if rows < len(mine) and not inherited and not (told and rows == before):
        problems.append(f"The tokenizer has {len(mine)} tokens and the embedding {rows} rows.")
    return problems, f"{counted(rows, 'row')}, {counted(len(mine), 'token')}"


def _template(mine: Any, source: Any) -> tuple[list[str], str]:
    same = mine.chat_template == source.chat_template
    return (
        [] if same else ["The chat template differs from the source's."]
    ), "one" if mine.chat_template else "none"
