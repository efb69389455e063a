"""The doctor's look at a config: every rule, then the policy, and the verdict that follows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from bot.diagnosis import Diagnosis, Finding, Verdict
from bot.errors import MergeBotError, RefusedError
from bot.plan import policy
from bot.plan.known_keys import known_keys
from bot.plan.rules.evidence import Evidence
from bot.plan.rules.rule import Config
from bot.plan.rules.table import BY_ID, Examined, examine
from bot.records import Patch

JSON = "json"  # the rule about the file's form
FORM = "PEFT reads the file as plain JSON, and stops at this"
BONE = (
    "the tensors of BONE have another name in MiSS: `merge` reads them under it, and --fix leaves the files alone;"
    " PEFT's scripts/convert-bone-to-miss.py rewrites both"
)
RFC = "https://www.rfc-editor.org/rfc/rfc8259"


def diagnose(
    config: Config,
    *,
    name: str,
    weights: Evidence | None = None,
    odd: Iterable[str] = (),
    wrong: MergeBotError | None = None,
) -> Diagnosis:
    """The verdict on a config; never raises for what it says. `odd`: in which ways the file is no plain JSON.

    `wrong` is what is the matter with the file of the weights.
    """
    found = examine(config, weights)
    findings = [*(_odd(what) for what in odd), *(_finding(p) for p in found.patches), *_refusals(found)]
    findings += [_stop(wrong)] if wrong else []
    kinds = {finding.kind for finding in findings}
    verdict: Verdict = "refused" if "refusal" in kinds else "repairable" if "repair" in kinds else "fine"
    return Diagnosis(
        adapter=name,
        verdict=verdict,
        findings=tuple(findings),
        looked_at_weights=weights is not None,
        repaired=repaired(config, found.patches) if verdict == "repairable" else None,
        notes=(BONE,) if any(p.rule == "bone" for p in found.patches) else (),
    )


def repaired(config: Config, patches: tuple[Patch, ...]) -> Config | None:
    """The config with its repairs, keys in their order. What PEFT itself writes and what does nothing stays.

    None where the config alone would not do: the tensors have to change as well.
    """
    if any(patch.rule == "bone" for patch in patches):
        return None
    known = known_keys(str(next((p.after for p in patches if p.key == "peft_type"), config.get("peft_type"))))
    result = dict(config)
    for patch in patches:
        if patch.inert and patch.key in known:
            continue
        if patch.after is None:
            result.pop(patch.key, None)
        else:
            result[patch.key] = patch.after
    return result


def unreadable(error: MergeBotError, *, name: str) -> Diagnosis:
    """The diagnosis of a file that cannot be read at all."""
    return Diagnosis(adapter=name, verdict="refused", findings=(_stop(error),))


def _stop(error: MergeBotError) -> Finding:
    return Finding(
        kind="refusal",
        rule=error.code,
        key="",
        before=None,
        after=None,
        reason=error.sentence,
        advice=error.advice,
    )


def _odd(what: str) -> Finding:
    return Finding(
        kind="repair", rule=JSON, key="", before=what, after=None, reason=FORM, peft="all", reference=RFC
    )


def _finding(patch: Patch) -> Finding:
    rule = BY_ID[patch.rule]
    return Finding(
        kind="inert" if patch.inert else "repair",
        rule=rule.id,
        key=patch.key,
        before=patch.before,
        after=patch.after,
        reason=patch.reason,
        peft=rule.peft,
        reference=rule.reference,
    )


def _refusals(found: Examined) -> list[Finding]:
    """What no rule can repair; and if there is nothing, what this release does not merge."""
    stops = [
        Finding(
            kind="refusal",
            rule=rule,
            key=stop.key,
            before=found.config.get(stop.key),
            after=None,
            reason=stop.sentence,
            advice=stop.advice,
            peft=BY_ID[rule].peft,
            reference=BY_ID[rule].reference,
        )
        for rule, stop in found.stops
    ]
    if stops:
        return stops
    try:
        policy.check(found.config)
    except RefusedError as refusal:
        return [*unreadable(refusal, name="").findings]
    return []
