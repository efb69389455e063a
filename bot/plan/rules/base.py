"""Rules about how the config names its base. What the name leads to is found in `bot.plan.base_model`."""

from __future__ import annotations

from collections.abc import Iterator

from bot.plan.rules.rule import Case, Change, Rule, Stop

# Written into configs by tools; no base has such a branch.
SPURIOUS_REVISIONS = frozenset({"unsloth"})


def _revision(case: Case) -> Iterator[Change | Stop]:
    if case.config.get("revision") in SPURIOUS_REVISIONS:
        yield Change(key="revision")


def _words(case: Case) -> Iterator[Change | Stop]:
    for key in ("base_model_name_or_path", "revision", "auto_mapping"):
        kind = dict if key == "auto_mapping" else str
        value = case.config.get(key)
        if value is not None and not isinstance(value, kind):
            yield Change(key=key, reason="it names nothing in this form")


BASE = (
    Rule(
        id="base-words",
        what="base_model_name_or_path, revision or auto_mapping of another type",
        sees=_words,
        reason="it names nothing in this form",
        peft="all",
        reference="peft/config.py, PeftConfig",
    ),
    Rule(
        id="revision",
        what='revision "unsloth"',
        sees=_revision,
        reason="unsloth writes it into the config, and bases have no such branch: loading them would fail",
        peft="all",
        reference="shared practice of unsloth; peft/auto.py loads the base with it",
    ),
)
