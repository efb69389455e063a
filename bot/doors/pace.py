"""How often a comment is edited: often at first, when somebody looks on, and then as GitHub's limits allow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds between two edits, in the first `eager` seconds and `later`, and between two looks at who calls it off.

    An edit takes two requests, for it looks first, and a look one: less than 250 in the first hour, of the 1,000 that
    a workflow's token has. With `every` at 0 the work waits for an edit at each step.
    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """

    every: float = 15.0
    eager: float = 300.0
    later: float = 60.0
    listen: float = 30.0

    def between(self, *, age: float, changed: bool) -> float:
        """Seconds between two edits of a job that began `age` ago; another stage is shown sooner."""
        if changed:
            return self.every / 3
        return self.every if age < self.eager else self.later
