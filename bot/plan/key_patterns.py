"""rank_pattern and alpha_pattern: which of their keys is a module's, as PEFT finds it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any


def by_pattern(patterns: Mapping[str, Any], module: str) -> Any:
    """The value of the first key that the end of the module's name matches; None when none does.

    The keys are regular expressions: whoever asks has looked that they end. Source: peft.utils.other.get_pattern_key.
    """
    keys = tuple(patterns)
    return next((patterns[k] for k, p in zip(keys, _compiled(keys), strict=True) if p.match(module)), None)


@lru_cache(maxsize=8)
def _compiled(keys: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Once for all modules: there may be a key for each of them."""
    return tuple(re.compile(rf"(.*\.)?({key})$") for key in keys)
