"""Webhooks over HTTP: a burst at `merge-bot serve` in a process of its own, from a client in another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.sections.place import Figure, Place, Section
from bot.jobs.migration import opened
from bot.jobs.tables import inbox
from tests.serve.process import SECRET, serving

HERE = Path(__file__).parents[2]
DELIVERIES, DIFFERENT, CONNECTIONS = 10_000, 8_000, 16
MOST, LARGEST = 100, 250  # milliseconds, MB


def measure(place: Place) -> list[Figure]:
    urls = {"SQLite": f"sqlite:///{place.folder / 'http.db'}"}
    if place.server:
        urls["PostgreSQL"] = place.server.fresh()
    return [figure for name, url in urls.items() for figure in _measure(name, url, place)]


def _measure(name: str, url: str, place: Place) -> list[Figure]:
    part = 10 if place.quick else 1
    folder = place.folder / name
    folder.mkdir()
    with serving(folder, "--no-worker", MERGE_BOT_DATABASE_URL=url) as server:
        command = [
            sys.executable, "-m", "benchmarks.burst", server.url, "--deliveries", str(DELIVERIES // part),
            "--different", str(DIFFERENT // part), "--connections", str(CONNECTIONS),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=HERE, input=SECRET, capture_output=True, text=True, check=True)
        found, memory = json.loads(done.stdout), server.rss()
    database = opened(url)
    kept = database.read(lambda connection: connection.scalar(select(func.count()).select_from(inbox)))
    database.close()
    lost = DELIVERIES // part - found["statuses"].get("202", 0) + abs(DIFFERENT // part - (kept or 0))
    return [
        Figure(name=f"{name}: lost, refused or kept twice", value=lost, unit="", most=0),
        Figure(name=f"{name}: deliveries", value=found["a_second"], unit="/s"),
        Figure(name=f"{name}: half are answered within", value=found["p50"], unit="ms"),
        Figure(name=f"{name}: 99 in 100 are answered within", value=found["p99"], unit="ms", most=MOST),
        Figure(name=f"{name}: memory of the server", value=memory, unit="MB", most=LARGEST),
    ]


SECTION = Section(title=f"{DELIVERIES:,} webhooks over {CONNECTIONS} connections", measure=measure)
