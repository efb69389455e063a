"""The singular values of a low-rank delta, from its factors alone."""

from __future__ import annotations

import numpy as np

from bot.validate.formula import Expression, Formula
from bot.validate.parity import AsPeft
from bot.weights.floats import Array

LARGEST_RANK = 256  # beyond, the products of r × r cost as much as a good part of the merge


def energies(expected: Expression) -> Array:
    """σ² of s·BA, the largest first; none for what has no factors, or too large ones.

    The eigenvalues of BᵀB·AAᵀ, r × r, as those of the symmetric S·AAᵀ·S with S² = BᵀB. Squaring loses what is below
    1e-8 of the largest value; such a share of the energy is shown nowhere.
    """
    formula = expected.exact if isinstance(expected, AsPeft) else expected
    if not isinstance(formula, Formula) or not formula.left.size or formula.right.shape[1] == 1:
        return np.zeros(0)  # a bias has one column, and no rank to speak of
    if not 0 < formula.right.shape[0] <= LARGEST_RANK:
        return np.zeros(0)
    with np.errstate(all="ignore"):  # what is not finite is said by the checks
        small = formula.left.T @ formula.left
        large = formula.right @ formula.right.T
    if not (np.isfinite(small).all() and np.isfinite(large).all()):
        return np.zeros(0)
    values, vectors = np.linalg.eigh(small)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    found: Array = np.linalg.eigvalsh(root.T @ large @ root)[::-1] * formula.scale**2
    return np.maximum(found, 0.0)
