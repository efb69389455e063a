"""What the doctor says of an adapter, as frozen records: findings with reasons, bases in question, a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bot.records import SCHEMA, Publication

Verdict = Literal["fine", "repairable", "refused"]
Kind = Literal["repair", "refusal", "inert"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was seen. `kind`: a `repair`, a `refusal`, or an `inert` value that does nothing and may stay.

    `after` is None for a key that goes; for a refusal, `reason` is the sentence and `advice` what to do.
    """

    kind: Kind
    rule: str
    key: str
    before: Any
    after: Any
    reason: str
    advice: str = ""
    peft: str = ""
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A base that somebody names: who, which, and what was found there. `fits` is None where it was not looked at."""

    named_by: str
    name: str
    revision: str | None = None
    commit: str | None = None
    fits: bool | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The whole answer. `repaired` is the config that --fix writes, None when nothing is to be written."""

    schema: int = SCHEMA
    adapter: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    looked_at_weights: bool = False
    base: tuple[Candidate, ...] = ()
    notes: tuple[str, ...] = ()
    repaired: dict[str, Any] | None = None
    written: str | None = None
    publication: Publication | None = None

    @property
    def refusals(self) -> tuple[Finding, ...]:
        """The findings that cannot be repaired."""
        return tuple(f for f in self.findings if f.kind == "refusal")
