"""The one table: every rule, in the order in which they are applied. A later rule sees what earlier ones repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bot.plan.peft_types import REFUSED
from bot.plan.rules.base import BASE
from bot.plan.rules.evidence import Evidence
from bot.plan.rules.history import HISTORY
from bot.plan.rules.inner import INNER_CONFIGS
from bot.plan.rules.keys import KEYS
from bot.plan.rules.limits import LIMITS, SCHEDULE
from bot.plan.rules.names import NAMES
from bot.plan.rules.ranks import RANKS
from bot.plan.rules.rule import Case, Change, Config, Rule, Stop
from bot.plan.rules.targets import TARGETS
from bot.plan.rules.values import FINITE, REST, VALUES
from bot.records import Patch

RULES: tuple[Rule, ...] = (
    *NAMES,
    *BASE,
    *KEYS,
    SCHEDULE,
    *VALUES,
    *TARGETS,
    *RANKS,
    *LIMITS,
    HISTORY,
    INNER_CONFIGS,
    FINITE,
    REST,
)
BY_ID: Mapping[str, Rule] = {rule.id: rule for rule in RULES}


@dataclass(frozen=True, kw_only=True)
class Examined:
    """The config with every repair in it, what was repaired, and what cannot be: rule and stop."""

    config: Config
    patches: tuple[Patch, ...]
    stops: tuple[tuple[str, Stop], ...]


def examine(config: Config, weights: Evidence | None = None) -> Examined:
    """Applies every rule. Never raises for what a config says."""
    current, patches, stops = dict(config), list[Patch](), list[tuple[str, Stop]]()
    for rule in RULES:
        for found in list(rule.sees(Case(current, weights))):
            if isinstance(found, Stop):
                stops.append((rule.id, found))
                continue
            patches.append(_patch(rule, found, current))
            if found.after is None:
                current.pop(found.key, None)
            else:
                current[found.key] = found.after
    if str(current.get("peft_type")) in REFUSED:  # that reason comes before all others
        stops = []
    return Examined(config=current, patches=tuple(patches), stops=tuple(stops))


def _patch(rule: Rule, change: Change, config: Config) -> Patch:
    return Patch(
        rule=rule.id,
        key=change.key,
        before=config.get(change.key),
        after=change.after,
        reason=change.reason or rule.reason,
        inert=change.inert,
    )
