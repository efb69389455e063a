"""What the service is made of comes with an extra; without it, its commands say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bot.errors import InputError


@contextmanager
def needed() -> Iterator[None]:
    """Around imports of the service. Raises InputError where its libraries are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "bot").partition(".")[0] == "bot":
            raise  # a fault of ours
        raise InputError(
            f"This command needs the service's libraries, and {error.name} is not installed.",
            advice="Run: pip install 'adapter-merge-bot[serve]'.",
            code="no-serve-extra",
        ) from error
