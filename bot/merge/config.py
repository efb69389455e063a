"""Edits of a config.json."""

from __future__ import annotations

from typing import Any


def edited_config(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of `config` with dotted keys set; None takes the key out."""
    result = dict(config)
    for key, value in values.items():
        head, _, rest = key.partition(".")
        if rest:
            result[head] = edited_config(result.get(head) or {}, {rest: value})
        elif value is None:
            result.pop(head, None)
        else:
            result[head] = value
    return result
