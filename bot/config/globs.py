"""Globs of repositories and users, for whoever asks: pydantic is not needed here, since an Action has none."""

from __future__ import annotations

import fnmatch


def matches(name: str, pattern: str) -> bool:
    """Whether a repository or user has this name, in which capitals do not matter: so it is on the Hub."""
    parts, wanted = name.casefold().split("/"), pattern.casefold().split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
