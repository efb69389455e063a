"""How several adapters go into one model: what the user's recipe must say, and must not. Pure, and known at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bot.errors import InputError
from bot.request import Recipe

STACK = "stack"
LINEAR = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")  # on A and B, each by itself
SVD = ("svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")  # on the deltas
COMBINATIONS = ("linear", "cat", "svd", *LINEAR[1:], *SVD[1:])
SIGNS = ("total", "frequency")
SEED = 0  # so that the same command gives the same bytes


def is_sparse(method: str) -> bool:
    """Whether the method keeps a share of the values only, and so takes a density."""
    return method.startswith(("ties", "dare", "magnitude_prune"))


def elects_signs(method: str) -> bool:
    """Whether the method elects a sign for each value."""
    return "ties" in method


def is_random(method: str) -> bool:
    """Whether the method drops values at random."""
    return method.startswith("dare")


def complete(recipe: Recipe | None, *, count: int) -> Recipe | None:
    """The recipe for `count` adapters with its defaults filled in; None for one adapter as it is.

    Raises InputError when something is missing, out of range, or said to a method that does not take it.
    """
    if recipe is None:
        if count > 1:
            raise _wrong(
                f"{count} adapters are given, and nothing says how they go into one model",
                "Say --stack (one after the other), or --combination cat --weights 0.7 0.3 (their weighted sum).",
            )
        return None
    _check_options(recipe)
    if recipe.method == STACK:
        _check_stack(recipe, count=count)
        return recipe
    _check_weights(recipe.weights, count=count)
    if is_sparse(recipe.method) and recipe.density is None:
        raise _wrong(
            f"{recipe.method} keeps a share of the values, and nothing says how large it is",
            "Say it with --density, between 0 and 1; 0.5 keeps half of them.",
        )
    sign = recipe.majority_sign_method or ("total" if elects_signs(recipe.method) else None)
    seed = SEED if is_random(recipe.method) and recipe.seed is None else recipe.seed
    return replace(recipe, majority_sign_method=sign, seed=seed)


def _check_stack(recipe: Recipe, *, count: int) -> None:
    if recipe.weights:
        raise _wrong("--stack merges every adapter as it is, and takes no weights", "Leave out --weights.")
    if count < 2:
        raise _wrong("One adapter is no stack", "Name the others too, or leave out --stack.")


def _check_options(recipe: Recipe) -> None:
    """Each option belongs to the methods that take it, and is in its range."""
    method = recipe.method
    given = (
        ("--density", recipe.density, is_sparse(method)),
        ("--majority-sign-method", recipe.majority_sign_method, elects_signs(method)),
        ("--svd-rank", recipe.svd_rank, method in SVD),
        ("--seed", recipe.seed, is_random(method)),
    )
    for flag, value, taken in given:
        if value is not None and not taken:
            raise _wrong(f"{flag} means nothing to {method}", f"Leave out {flag}, or choose another method.")
    if recipe.density is not None and not 0 < recipe.density <= 1:
        raise _wrong(f"The density {recipe.density:g} is not above 0 and at most 1", "0.5 keeps half.")


def _check_weights(weights: tuple[float, ...], *, count: int) -> None:
    if len(weights) != count:
        raise _wrong(
            f"{count} adapter{'s' * (count > 1)} and {len(weights)} weight{'s' * (len(weights) != 1)} are given",
            "Give one weight for each adapter, in their order: --weights 0.7 0.3.",
        )
    if odd := [w for w in weights if not math.isfinite(w)]:
        raise _wrong(f"The weight {odd[0]} is no number to multiply with", "Give finite numbers.")
    if not any(weights):
        raise _wrong("Every weight is zero, so nothing would be merged", "Give at least one that is not.")


def _wrong(sentence: str, advice: str) -> InputError:
    return InputError(f"{sentence}.", advice=advice, code="recipe")


def joined_weights(words: Sequence[str]) -> list[str]:
    """`--weights 0.7 0.3` as `--weights=0.7,0.3`."""
    joined: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        numbers = []
        while word == "--weights" and rest and is_number(rest[0]):
            numbers.append(rest.pop(0))
        joined.append(f"{word}={','.join(numbers)}" if numbers else word)
    return joined


def is_number(word: str) -> bool:
    """Whether Python reads the word as a number (nan and inf included: they are refused where they can be named)."""
    try:
        float(word)
    except ValueError:
        return False
    return True
