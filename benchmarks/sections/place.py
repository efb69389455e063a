"""What every section of the service's benchmark is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bot.jobs.database import Database
from bot.jobs.migration import opened
from tests.jobs import postgres


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that was measured. `most` and `least` are what is required of it, where something is."""

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool | None:
        if self.most is None and self.least is None:
            return None
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a section may work: a folder of its own, and databases. `quick` asks for a tenth of everything."""

    folder: Path
    quick: bool = False
    server: postgres.Postgres | None = None

    @contextmanager
    def databases(self) -> Iterator[list[tuple[str, Database]]]:
        """An empty database of each kind that there is."""
        urls = {"SQLite": f"sqlite:///{self.folder / 'bot.db'}"}
        if self.server:
            urls["PostgreSQL"] = self.server.fresh()
        found = [(name, opened(url)) for name, url in urls.items()]
        yield found
        for _, database in found:
            database.close()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the benchmark: what it is about, and what measures it."""

    title: str
    measure: Callable[[Place], list[Figure]] = field(repr=False)


def percentile(values: list[float], percent: int) -> float:
    """Of `values`, the one that so many percent do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]
