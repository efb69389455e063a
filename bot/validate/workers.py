"""Threads for work on small blocks: one core each, as BLAS's own threads would mostly wait for each other there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as this process may use cores; in each of them numpy multiplies alone."""
    cores = len(os.sched_getaffinity(0))
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cores) as pool:
        yield pool
