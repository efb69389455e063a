"""alpha_pattern as older releases of PEFT read it: refused where that is another scale, since no tensor shows it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bot.errors import RefusedError
from bot.plan.key_patterns import by_pattern
from bot.plan.rules.history import written_since
from bot.plan.rules.rule import short


def is_open(config: Mapping[str, Any]) -> bool:
    """Whether there are patterns, and the config does not show that they are read as today."""
    return (
        config.get("peft_type") == "LORA"
        and bool(config.get("alpha_pattern"))
        and not written_since(config, 15)
    )


def check(*, adapter_config: Mapping[str, Any], modules: Iterable[str]) -> None:
    """Raises RefusedError when a module's alpha depends on which PEFT it was, and the config does not tell.

    The patterns are regular expressions: whoever asks has looked that they end. Sources: LoraModel._create_and_replace
    of 0.13, peft.utils.other.get_pattern_key of 0.14 and of 0.15.
    """
    usual = adapter_config.get(
        "alpha" if "alpha" in adapter_config else "lora_alpha"
    )  # of LoHa and LoKr, of LoRA
    for module in modules:
        now = _known(by_pattern(adapter_config["alpha_pattern"], module), usual)
        for found in _before(adapter_config, module):
            then = _known(found, usual)
            if then != now:
                raise _unclear(module, now=now, then=then)


def _known(alpha: Any, usual: Any) -> Any:
    return usual if alpha is None else alpha


def _before(config: Mapping[str, Any], module: str) -> Iterator[Any]:
    alphas = config["alpha_pattern"]
    keys = (
        [[*alphas]]
        if written_since(config, 14)
        else [[*alphas], [*(config.get("rank_pattern") or {}), *alphas]]
    )
    for each in keys:  # until 0.13 the first key of both counted for both
        yield alphas.get(next((key for key in each if _matches(key, module)), module))


def _matches(key: str, module: str) -> bool:
    try:
        return re.match(rf".*\.{key}$", module) is not None
    except re.error:  # one that starts with flags, say: today's form raised or did not
        return False


def _unclear(module: str, *, now: Any, then: Any) -> RefusedError:
    return RefusedError(
        f"alpha_pattern gives {module} the alpha {short(now)} since PEFT 0.15 and {short(then)} before, and"
        " adapter_config.json does not say which PEFT it was.",
        advice="Put peft_version in, if it was 0.15 or later; or write alpha_pattern with whole names of modules.",
        code="pattern-unclear",
    )
