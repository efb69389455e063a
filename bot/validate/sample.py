"""Which rows of a tensor are looked at: all of them, or one in sixteen, chosen by the tensor's name alone."""

from __future__ import annotations

import hashlib

import numpy as np

from bot.weights.floats import Array

EVERY = 16
SMALL = 2**12  # elements: what has fewer is looked at wholly
SHORT = 16  # columns: reading one row of such a tensor costs more than looking at sixteen


def is_sampled(shape: tuple[int, int], *, thorough: bool) -> bool:
    """Whether only some rows of a tensor, as a matrix, are looked at."""
    rows, columns = shape
    return not thorough and rows * columns >= SMALL and columns >= SHORT


def sample(name: str, shape: tuple[int, int], *, thorough: bool = False) -> Array:
    """The rows to look at, in order: the first, the last, and one of every sixteen.

    Where in its sixteen a row lies is as good as random, so that no period of rows stays unseen.
    """
    rows, _ = shape
    if not is_sampled(shape, thorough=thorough):
        return np.arange(rows)
    seed = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], dtype="<u8")[0]
    blocks = np.arange(-(-rows // EVERY), dtype=np.uint64)
    chosen = blocks * np.uint64(EVERY) + _mixed(blocks, seed=seed) % np.uint64(EVERY)
    inside = np.minimum(chosen, np.uint64(rows - 1)).astype(np.int64)
    return np.unique(np.concatenate([[0], inside, [rows - 1]]))


def _mixed(counter: Array, *, seed: np.uint64) -> Array:
    """SplitMix64 (Steele, Lea and Flood, 2014, doi:10.1145/2714064.2660195): numbers that look random."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        state = seed + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = state ^ (state >> np.uint64(31))
    return mixed
