"""The YAML block of the merged model's card: what it inherits from the adapter's and the base's cards.

Cards are strangers' text, so every value is matched against what the key may hold; what does not fit is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from bot.records import Pinned, Plan

LARGEST = 200_000  # characters of front matter that are worth parsing; real ones have a few thousand
MOST = 100  # items of a list
BLOCK = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
NAME = re.compile(r"[\w][\w .+/:-]{0,95}")
REPO_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
SLUG = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}", re.ASCII)
LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{2,8})*", re.ASCII)
LINK = re.compile(r"https?://[\w.-]+(/[\w./%~+-]*)?|[\w./-]{1,200}", re.ASCII)
ADAPTER_TAGS = frozenset(
    {"peft", "lora", "qlora", "dora", "adapter", "adapters", "peft-adapter", "lora-adapter"}
)
# What libraries and the Hub write themselves: it is said elsewhere in the card, or is no longer true of the merge.
TOOL_TAGS = frozenset(
    {
        "transformers", "safetensors", "pytorch", "tf", "jax", "onnx", "gguf", "mlx", "custom_code",
        "autotrain_compatible", "endpoints_compatible", "has_space", "text-generation-inference",
        "text-embeddings-inference", "model_hub_mixin", "pytorch_model_hub_mixin",
    }
)  # fmt: skip
# The weights of a merge are never quantised, though its base or what the adapter was trained on may have been.
QUANTIZED_TAGS = frozenset(
    {
        "4-bit", "4bit", "8-bit", "8bit", "bitsandbytes", "bnb", "nf4", "fp4", "int4", "int8", "fp8", "mxfp4",
        "gptq", "awq", "compressed-tensors", "quantized", "quantization",
    }
)  # fmt: skip
KEYED_TAGS = ("base_model:", "dataset:", "deploy:", "doi:", "language:", "license:", "region:")
OWN_TAGS = ("merged", "adapter-merge-bot")
PIPELINES = {
    "CAUSAL_LM": "text-generation",
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}
License = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Inherited:
    """What goes into the block, and the licences when they are not the same: those of the adapters, then the base's."""

    metadata: dict[str, Any]
    conflict: tuple[str, ...] | None


def inherit(
    plan: Plan,
    *,
    adapter_card: str | None,
    base_card: str | None,
    endpoint: str,
    further_cards: Sequence[str | None] = (),
) -> Inherited:
    """The merged model's metadata. A card whose front matter is absent or broken counts as empty."""
    adapters, base = [parse(card) for card in (adapter_card, *further_cards)], parse(base_card)
    own = [_license(card, place, endpoint) for card, place in zip(adapters, plan.adapters, strict=True)]
    ours, theirs = [terms for terms in own if terms], _license(base, plan.base, endpoint)
    names = list(dict.fromkeys(_called(terms) for terms in ours))
    differ = len({*names, *([_called(theirs)] if theirs else [])}) > 1
    adapter = {key: value for card in reversed(adapters) for key, value in card.items()}
    pipeline = _first(adapter, "pipeline_tag", SLUG) or _first(base, "pipeline_tag", SLUG)
    tags = [tag for card in (*adapters, base) for tag in _items(card, "tags", NAME)]
    metadata: dict[str, Any] = {
        **_base_model(plan),
        "library_name": "transformers",
        **(theirs if differ or not ours else ours[0]),
        "pipeline_tag": pipeline or PIPELINES.get(plan.task_type or ""),
        "language": _all(adapters, "language", LANGUAGE) or _items(base, "language", LANGUAGE),
        "datasets": _all(adapters, "datasets", REPO_ID) or _items(base, "datasets", REPO_ID),
        "tags": _tags(tags),
    }
    conflict = (*names, _called(theirs)) if differ else None
    return Inherited(metadata={key: value for key, value in metadata.items() if value}, conflict=conflict)


def render(metadata: Mapping[str, Any]) -> str:
    """The block with its fences."""
    text = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n"


def parse(card: str | None) -> dict[str, Any]:
    """A card's front matter, every scalar a string (`no` is Norwegian, not False); empty when there is none."""
    found = BLOCK.match(card or "")
    if found is None or len(found[1]) > LARGEST:
        return {}
    try:
        data = yaml.load(found[1], Loader=yaml.BaseLoader)  # noqa: S506 (it builds strings, lists and dicts only)
    except (yaml.YAMLError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _license(card: Mapping[str, Any], place: Pinned, endpoint: str) -> License:
    name = _first(card, "license", SLUG)
    if name != "other":
        return {"license": name} if name else {}
    more = {
        "license_name": _first(card, "license_name", NAME),
        "license_link": _first(card, "license_link", LINK),
    }
    link = more["license_link"]
    if link and not link.startswith(
        "http"
    ):  # relative to a repository that the merged model does not live in
        on_hub = place.kind == "hub"
        more["license_link"] = f"{endpoint}/{place.location}/blob/{place.commit}/{link}" if on_hub else ""
    return {"license": name, **{key: value for key, value in more.items() if value}}


def _called(terms: License) -> str:
    return terms.get("license_name") or terms.get("license", "")


def _base_model(plan: Plan) -> dict[str, str]:
    if plan.base.kind != "hub":
        return {}
    relation = "merge" if plan.further else "finetune"
    return {"base_model": plan.base.location, "base_model_relation": relation}


def _tags(tags: Iterable[str]) -> list[str]:
    """The tags that are true of the merge too, each once, and ours."""
    kept: dict[str, str] = {}
    for tag in (*tags, *OWN_TAGS):
        if not _is_dropped(tag.lower()):
            kept.setdefault(tag.lower(), tag)
    return list(kept.values())


def _is_dropped(tag: str) -> bool:
    return tag in ADAPTER_TAGS | TOOL_TAGS | QUANTIZED_TAGS or tag.startswith(KEYED_TAGS)


def _first(card: Mapping[str, Any], key: str, shape: re.Pattern[str]) -> str:
    return next(iter(_items(card, key, shape)), "")


def _all(cards: Iterable[Mapping[str, Any]], key: str, shape: re.Pattern[str]) -> list[str]:
    return list(dict.fromkeys(item for card in cards for item in _items(card, key, shape)))[:MOST]


def _items(card: Mapping[str, Any], key: str, shape: re.Pattern[str]) -> list[str]:
    value = card.get(key)
    given = value if isinstance(value, list) else [value]
    fits = (item for item in given if isinstance(item, str) and shape.fullmatch(item) and item != "null")
    return list(dict.fromkeys(fits))[:MOST]
