"""The title and the first comment of a Hub PR that repairs an adapter's config."""

from __future__ import annotations

import json

from bot.diagnosis import Diagnosis, Finding
from bot.publish.escape import code, joined, plain
from bot.publish.marker import marker

MOST = 30


def title(found: Diagnosis) -> str:
    """The title: what is repaired, in words of our own and names of keys that PEFT knows or does not."""
    keys = list(dict.fromkeys(f.key for f in _repairs(found) if f.key))
    named = ", ".join("".join(c for c in key if c.isalnum() or c in "_-")[:40] for key in keys[:3])
    return f"Repair adapter_config.json: {named or 'plain JSON'}{' and more' if len(keys) > 3 else ''}"


def body(found: Diagnosis, *, key: str) -> str:
    """The first comment, with the hidden marker by which a second run finds this Hub PR."""
    lines = [
        marker(key),
        "This pull request was opened automatically by adapter-merge-bot, on request of its operator.",
        "",
        "With this repair, PEFT loads the adapter as it was meant. The weights are not touched.",
        "",
        "**What changes in `adapter_config.json`**",
        "",
    ]
    repairs = _repairs(found)
    lines += [_line(finding) for finding in repairs[:MOST]]
    lines += [f"- {len(repairs) - MOST} more of this kind."] if len(repairs) > MOST else []
    lines += ["", "If this is not wanted, feel free to close it: nothing else happens then."]
    return joined(lines)


def _repairs(found: Diagnosis) -> list[Finding]:
    return [finding for finding in found.findings if finding.kind == "repair"]


def _line(finding: Finding) -> str:
    if not finding.key:
        return f"- The file has {plain(finding.before)}. {plain(finding.reason)}."
    after = "removed" if finding.after is None else f"now {code(_value(finding.after))}"
    before = "" if finding.before is None else f", was {code(_value(finding.before))}"
    return f"- {code(finding.key)}{before}, {after}: {plain(finding.reason)}."


def _value(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else text[:117] + "…"
