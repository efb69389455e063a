"""Threads for work on small blocks: one core each, as torch's own threads would mostly wait for each other there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as this process may use cores; in each of them torch works alone."""
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # the setting is partly the process's
