"""Environment → frozen Settings. The only reader of `os.environ`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says.

    `read_token` and `write_token` are kept out of every repr. `timeout` is seconds without an answer, `attempts`
    how often a request is tried, `scratch` the folder for unfinished work (None: beside the destination, or the
    system's temporary folder).
    """

    endpoint: str = "https://huggingface.co"
    read_token: str | None = field(default=None, repr=False)
    write_token: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    attempts: int = 5
    scratch: Path | None = None


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
    )


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
