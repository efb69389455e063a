"""What a `/merge …` comment may say behind its first word: one table of options, and what their values look like.

A comment is written by anybody, so it names models on the Hub and nothing else: no path of the machine, no address, no
device, no limit. What is not in these tables does not exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["flag", "model", "repository", "word", "choice", "numbers", "number", "path", "commit"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of the grammar: its flag, the field of `Command` that it fills, and what may stand behind it."""

    flag: str
    kind: Kind
    says: str
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """The field of `Command`."""
        return self.flag.removeprefix("--").replace("-", "_")


COMBINATIONS = (
    "linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd",
    "magnitude_prune", "magnitude_prune_svd",
)  # fmt: skip
OPTIONS = (
    Option(flag="--base", kind="model", says="The base model, in place of the one that the adapter names."),
    Option(flag="--base-revision", kind="word", says="Branch, tag or commit of the base."),
    Option(flag="--initial-adapter", kind="model", says="The adapter before its first step."),
    Option(flag="--to", kind="repository", says="The Hub repository for the result."),
    Option(flag="--pr", kind="flag", says="Open a Hub PR there in place of a commit."),
    Option(flag="--public", kind="flag", says="If the repository has to be created, make it public."),
    Option(
        flag="--folder",
        kind="path",
        says="The adapter in this folder of the GitHub PR, or of the repository on the Hub.",
    ),
    Option(flag="--head", kind="commit", says="Only if this still is the head of the GitHub PR or Hub PR."),
    Option(
        flag="--dtype",
        kind="choice",
        says="Dtype of the result.",
        choices=("auto", "float32", "bfloat16", "float16"),
    ),
    Option(flag="--parity", kind="choice", says="Round once, or as PEFT does.", choices=("exact", "peft")),
    Option(
        flag="--quantized-base",
        kind="choice",
        says="What a quantised base stands for.",
        choices=("original", "dequantize"),
    ),
    Option(
        flag="--validate",
        kind="choice",
        says="How much is checked.",
        choices=("full", "tensors", "structure"),
    ),
    Option(flag="--stack", kind="flag", says="Several adapters, one after the other."),
    Option(
        flag="--combination", kind="choice", says="Several adapters, made into one.", choices=COMBINATIONS
    ),
    Option(flag="--weights", kind="numbers", says="One number for each adapter."),
    Option(flag="--density", kind="number", says="What ties, dare and magnitude_prune keep."),
    Option(
        flag="--majority-sign-method",
        kind="choice",
        says="How the ties elect signs.",
        choices=("total", "frequency"),
    ),
    Option(flag="--svd-rank", kind="number", says="The rank that an svd keeps."),
    Option(flag="--seed", kind="number", says="The random numbers of dare."),
    Option(flag="--dry-run", kind="flag", says="Merge and check, and publish nothing."),
)
# Options of the command line that are the operator's to choose.
OPERATORS = frozenset({"--device", "--allow-pickle", "--way", "--out", "--no-validate", "--thorough"})

# What the Hub takes for a name; a revision and a folder with no way out of the repository.
_OWNED = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}"
_PART = r"(?!\.{1,2}(?:/|$))[\w.-][\w.-]{0,99}"
_PATH = rf"{_PART}(?:/{_PART}){{0,15}}"
MODEL = re.compile(rf"(?P<name>{_OWNED})(?P<revision>@{_PATH})?(?P<within>:{_PATH})?", re.ASCII)
BASE = re.compile(
    rf"(?P<name>{_OWNED}|[A-Za-z0-9][\w.-]{{0,95}})(?P<revision>@{_PATH})?(?P<within>:{_PATH})?", re.ASCII
)
PATTERNS: dict[str, re.Pattern[str]] = {
    "model": BASE,
    "repository": re.compile(_OWNED, re.ASCII),
    "word": re.compile(_PATH, re.ASCII),
    "path": re.compile(_PATH, re.ASCII),
    "commit": re.compile(r"[0-9a-fA-F]{7,40}", re.ASCII),
    "number": re.compile(r"-?\d{1,9}(?:\.\d{1,9})?", re.ASCII),
}
MEANT = {
    "model": "a model on the Hub, as owner/name, owner/name@revision or owner/name:folder",
    "repository": "a repository on the Hub, as owner/name",
    "word": "a branch, a tag or a commit",
    "path": "a folder, as adapters/mine",
    "commit": "a commit, as 7 to 40 hexadecimal digits",
    "number": "a number",
    "numbers": "numbers, as 0.7,0.3",
}
WHOLE = frozenset({"--svd-rank", "--seed"})
