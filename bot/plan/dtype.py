"""`--dtype` in config.json: the dtype that transformers loads the merged model in."""

from __future__ import annotations

from typing import Any

from bot.records import ConfigEdit

KEYS = ("dtype", "torch_dtype")  # the name since transformers 4.56, and before


def edits(config: dict[str, Any], *, dtype: str) -> list[ConfigEdit]:
    """The edits for a dtype that was asked for; none for `auto`, which leaves every tensor's dtype as it is."""
    if dtype == "auto":
        return []
    places = {"": config, **{f"{k}.": v for k, v in config.items() if isinstance(v, dict)}}
    found = [(f"{p}{k}", c[k]) for p, c in places.items() for k in KEYS if k in c]
    reason = f"the weights are stored as {dtype}"
    return [
        ConfigEdit(key=key, before=before, after=dtype, reason=reason)
        for key, before in found or [("dtype", None)]
        if before != dtype
    ]
