"""What `/readyz` asks: each check is a sentence about what is wrong, or nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sqlalchemy import select

from bot.jobs.database import Database
from bot.serve.service import Check

PATIENCE = 2.0  # seconds that the database may be locked or away before that is worth a word


def database(there: Database) -> Check:
    """Raises HostError, whose sentence is the answer."""

    def check() -> str:
        there.read(lambda connection: connection.scalar(select(1)), patience=PATIENCE)
        return ""

    return check


def writable(folder: Path) -> Check:
    """Whether a file can be written there: a disk that is full or read-only shows only then."""

    def check() -> str:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"merge-bot")
                file.flush()
        except OSError as error:
            return f"{folder} cannot be written to: {error.strerror}."
        return ""

    return check
