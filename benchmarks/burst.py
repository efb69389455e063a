"""`python -m benchmarks.burst URL`: webhook deliveries over HTTP as fast as they are answered, and how long that took.

A process of its own, so that the server has its own core. The secret is read from stdin. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from urllib.parse import urlsplit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="+", help="servers, which share the deliveries")
    parser.add_argument("--deliveries", type=int, default=10_000, help="how many in all")
    parser.add_argument("--different", type=int, default=8_000, help="how many of them are not sent again")
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    secret = sys.stdin.readline().strip()
    order = sequence(given.deliveries, given.different)
    seconds, times, statuses = asyncio.run(sent(given.url, order, secret, connections=given.connections))
    print(json.dumps(summary(seconds, times, statuses)))


def sequence(count: int, different: int) -> list[int]:
    """Which delivery is sent when: all of them at least once, some again, in an order that is the same each time."""
    chance = random.Random(7)
    order = [*range(different), *(chance.randrange(different) for _ in range(count - different))]
    chance.shuffle(order)
    return order


def delivery(number: int) -> bytes:
    """A push to a model repository, as the Hub tells of it."""
    commit = f"{number:040x}"
    told = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {
            "type": "model", "name": f"acme/adapter-{number}", "id": "6" * 24, "private": False, "headSha": commit,
            "url": {"web": "https://huggingface.co/acme/a", "api": "https://huggingface.co/api/models/acme/a"},
            "owner": {"id": "6" * 24},
        },
        "updatedRefs": [{"ref": "refs/heads/main", "oldSha": "0" * 40, "newSha": commit}],
        "webhook": {"id": "6" * 24, "version": 3},
    }  # fmt: skip
    return json.dumps(told).encode()


async def sent(
    urls: list[str], order: list[int], secret: str, *, connections: int
) -> tuple[float, list[float], list[int]]:
    """Seconds in all; seconds and status of each answer."""
    times: list[float] = []
    statuses: list[int] = []
    left = iter(order)
    head = (
        "POST /webhooks/hub HTTP/1.1\r\nHost: load\r\nContent-Type: application/json\r\n"
        f"X-Webhook-Secret: {secret}\r\nContent-Length: %d\r\n\r\n"
    )

    async def one_connection(url: str) -> None:
        place = urlsplit(url)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        for number in left:
            body = delivery(number)
            began = time.perf_counter()
            writer.write((head % len(body)).encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length))
            times.append(time.perf_counter() - began)
            statuses.append(int(answer.split(b" ")[1]))
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one_connection(urls[n % len(urls)]) for n in range(connections)))
    return time.perf_counter() - began, times, statuses


def summary(seconds: float, times: list[float], statuses: list[int]) -> dict[str, object]:
    """The figures; times are milliseconds."""
    ordered = sorted(times)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 1)

    counted = {str(status): statuses.count(status) for status in sorted(set(statuses))}
    return {
        "seconds": round(seconds, 2),
        "a_second": round(len(times) / seconds),
        "p50": at(0.5),
        "p99": at(0.99),
        "slowest": at(1.0),
        "statuses": counted,
    }


if __name__ == "__main__":
    main()
