"""Environment → frozen Settings. The only reader of `os.environ`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bot.terms import VARIABLES, Limits, Terms

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
AMOUNT = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([kmgt]b)?", re.ASCII)
OFF = "off"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says.

    `read_token` and `write_token` are kept out of every repr. `timeout` is seconds without an answer, `attempts`
    how often a request is tried, `scratch` the folder for unfinished work (None: beside the destination, or the
    system's temporary folder), `terms` what is published and how large it may be.
    """

    endpoint: str = "https://huggingface.co"
    read_token: str | None = field(default=None, repr=False)
    write_token: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    attempts: int = 5
    scratch: Path | None = None
    terms: Terms = field(default_factory=Terms)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ` (default: the process's). Raises ValueError naming a variable that makes no sense."""
    env = os.environ if environ is None else environ
    token = env.get("HF_TOKEN") or None
    scratch = env.get("MERGE_BOT_SCRATCH")
    return Settings(
        endpoint=env.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/"),
        read_token=env.get("MERGE_BOT_READ_TOKEN") or token,
        write_token=env.get("MERGE_BOT_WRITE_TOKEN") or token,
        timeout=_positive(env, "MERGE_BOT_TIMEOUT", 30.0),
        attempts=int(_positive(env, "MERGE_BOT_ATTEMPTS", 5)),
        scratch=Path(scratch) if scratch else None,
        terms=Terms(allowed_licenses=_licenses(env), limits=_limits(env)),
    )


def _licenses(env: Mapping[str, str]) -> frozenset[str]:
    names = (name.strip().casefold() for name in (env.get("MERGE_BOT_ALLOW_LICENSES") or "").split(","))
    return frozenset(name for name in names if name)


def _limits(env: Mapping[str, str]) -> Limits:
    given = {field: (name, (env.get(name) or "").strip().lower()) for field, name in VARIABLES.items()}
    return Limits(**{f: _amount(name, text) for f, (name, text) in given.items() if text})


def _amount(name: str, text: str) -> int | None:
    """A number, of bytes also as `500 GB`; None for `off`."""
    if text == OFF:
        return None
    found = AMOUNT.fullmatch(text)
    value = int(float(found[1]) * UNITS[found[2] or ""]) if found else 0
    is_bytes = name.endswith("_BYTES")
    if value < 1 or (found and found[2] and not is_bytes):
        example = "a number of bytes, such as 500GB," if is_bytes else "a positive whole number"
        raise ValueError(f"{name} must be {example} or off, not {text!r}")
    return value


def _positive(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ValueError(f"{name} must be a positive number, not {text!r}")
    return value
