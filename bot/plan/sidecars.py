"""Which small files travel with the merged weights, and whose: the adapter's own where it has them, else the base's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from bot.errors import RefusedError
from bot.records import Sidecar
from bot.weights.files import Files, read_small

VOCABULARY = frozenset(
    {
        "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
        "tekken.json", "tokenizer.model.v3", "source.spm", "spm.model", "spm_char.model", "sentencepiece.model",
        "prophetnet.tokenizer", "byte_maps.json",
    }
)  # fmt: skip
TOKENIZER = VOCABULARY | {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "normalizer.json",
    "target.spm", "bpe.codes", "tiktoken.model", "dict.txt", "emoji.json", "entity_vocab.json", "target_vocab.json",
}  # fmt: skip
TEMPLATES = re.compile(r"chat_template\.(jinja|json)|additional_chat_templates/[\w.-]+\.jinja")
SINGLE = frozenset(
    {
        "generation_config.json", "preprocessor_config.json", "processor_config.json", "image_processor_config.json",
        "video_preprocessor_config.json", "audio_processor_config.json",
    }
)  # fmt: skip
BASE_ONLY = re.compile(
    r"(LICEN[CS]E|NOTICE|USE_POLICY)(\.\w+)?"
    # sentence-transformers: its modules, with their configs and the weights of small dense layers
    r"|modules\.json|sentence_bert_config\.json|config_sentence_transformers\.json|\d+_\w+/(config\.json|\w+\.safetensors)",
    re.IGNORECASE,
)


def choose(adapter: Files, *, base: Files) -> tuple[Sidecar, ...]:
    """The sidecars of the merged model. A tokenizer is taken whole from one side: mixed halves would not fit."""
    own, theirs = set(adapter.sizes()), set(base.sizes())
    found = [Sidecar(name=n, origin="adapter" if n in own else "base") for n in SINGLE & (own | theirs)]
    whole = _has_vocabulary(own)
    tokenizer = own if whole else theirs
    found += [Sidecar(name=n, origin="adapter" if whole else "base") for n in TOKENIZER & tokenizer]
    found += [Sidecar(name=n, origin="base") for n in theirs if n.endswith(".tiktoken") and not whole]
    found += _templates(adapter, own=own, theirs=theirs, whole=whole)
    found += [Sidecar(name=n, origin="base") for n in theirs if BASE_ONLY.fullmatch(n)]
    return tuple(sorted(found, key=lambda s: s.name))


def _has_vocabulary(names: Iterable[str]) -> bool:
    return not VOCABULARY.isdisjoint(names)


def _templates(adapter: Files, *, own: set[str], theirs: set[str], whole: bool) -> list[Sidecar]:
    """A chat template of the adapter's, in a file or inside its tokenizer_config.json, hides the base's."""
    mine = [Sidecar(name=n, origin="adapter") for n in own if TEMPLATES.fullmatch(n)]
    if mine or (whole and _embedded_template(adapter, names=own)):
        return mine
    return [Sidecar(name=n, origin="base") for n in theirs if TEMPLATES.fullmatch(n)]


def _embedded_template(files: Files, *, names: set[str]) -> bool:
    name = "tokenizer_config.json"
    return name in names and bool(_json(files, name).get("chat_template"))


def check_vocabulary(files: Files, *, base: Files, rows: int | None, name: str) -> list[str]:
    """What there is to say of an adapter's tokenizer that has more tokens than the model has rows of embeddings.

    That is so where the base's own is as long (Gemma 3 1B counts an image token that it never sees). Raises
    RefusedError for any other.
    """
    count = token_count(files)
    if rows is None or count <= rows:
        return []
    if token_count(base) == count:
        return [f"the tokenizer has {count} tokens, as the base's own, and the embeddings have {rows} rows"]
    raise RefusedError(
        f"The adapter's tokenizer has {count} tokens and {name} has {rows} rows of embeddings.",
        advice="Tokens were added in training: save the adapter with save_embedding_layers=True.",
        code="tokenizer-too-long",
    )


def token_count(files: Files) -> int:
    """One more than the largest token id that the tokenizer's JSON files name; 0 when they name none."""
    names = set(files.sizes())
    ids: list[int] = []
    if "tokenizer.json" in names:
        tokenizer = _json(files, "tokenizer.json")
        model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        ids += vocabulary.values() if isinstance(vocabulary, dict) else ()
        ids += [len(vocabulary) - 1] if isinstance(vocabulary, list) else []
        ids += (
            [t["id"] for t in added if isinstance(t, dict) and "id" in t] if isinstance(added, list) else []
        )
    if "added_tokens.json" in names:
        ids += list(_json(files, "added_tokens.json").values())
    return max((i for i in ids if isinstance(i, int)), default=-1) + 1


def _json(files: Files, name: str) -> dict[str, Any]:
    try:
        found = json.loads(read_small(files, name))
    except (ValueError, RecursionError):
        return {}  # the structure check loads the tokenizer and says what is wrong with it
    return found if isinstance(found, dict) else {}
