"""Repairs of adapter_config.json that cannot change the arithmetic: the table of rules, applied or refused."""

from __future__ import annotations

from bot.errors import RefusedError
from bot.plan.rules.evidence import Evidence
from bot.plan.rules.rule import Config
from bot.plan.rules.table import examine
from bot.records import Patch


def apply(config: Config, weights: Evidence | None = None) -> tuple[Config, tuple[Patch, ...]]:
    """The patched config and what was patched. Raises RefusedError for what cannot be repaired.

    `weights`: what the headers of the adapter's weights say, if they are there.
    """
    found = examine(config, weights)
    if found.stops:
        _, stop = found.stops[0]
        raise RefusedError(stop.sentence, advice=stop.advice, code=stop.code)
    return found.config, found.patches
