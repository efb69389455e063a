"""Takes all the room of the disk that a database lies on."""

import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path


def fill(place: Path) -> None:
    """What the database's log had taken is given back first, so that whoever writes next needs new room."""
    with closing(sqlite3.connect(place / "bot.db", timeout=1)) as connection:
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            time.sleep(0.01)
    with (place / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)
