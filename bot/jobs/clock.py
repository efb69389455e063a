"""Seconds that have passed, also while the machine slept; nobody can set this clock."""

from __future__ import annotations

import time

# https://man7.org/linux/man-pages/man2/clock_gettime.2.html: CLOCK_MONOTONIC stands still in a suspended machine.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def passed() -> float:
    """Since the machine was started: only differences mean something."""
    return time.clock_gettime(_CLOCK)
