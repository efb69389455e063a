"""What the two hosts are called in our answers, where their words differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Host:
    """`thread` is where comments are written, `merges` says what a `/merge` alone does there.

    `workflow`: the bot may run in a workflow, to whose YAML can be added what it lacks.
    """

    name: Literal["github", "hub"]
    workflow: bool
    thread: str
    merges: str


GITHUB = Host(
    name="github",
    workflow=True,
    thread="GitHub PR",
    merges="Merge the adapter of this GitHub PR: the folder that it changes, or the model that it links to.",
)
HUB = Host(
    name="hub",
    workflow=False,
    thread="discussion",
    merges="Merge the adapter of this repository; under a Hub PR, as it is there.",
)
