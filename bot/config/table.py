"""What every table of `merge-bot.toml` is: a frozen record whose keys say what they mean."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Table(BaseModel):
    """One table of the file. A key that it does not know is a mistake; what was given is in no error's text."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def key(default: Any, says: str, **bounds: Any) -> Any:
    """A key with its default, what it means, and its bounds."""
    return Field(default=default, description=says, **bounds)
