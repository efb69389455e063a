"""The rules of a repository on the Hub at one commit, its own merge-bot.yml there included."""

from __future__ import annotations

from bot.config.models import Config
from bot.config.repository_file import FILE, LARGEST
from bot.config.rules import Rules, may_watch, rules_for
from bot.weights.files import Hub


def rules_at(config: Config, repository: str, commit: str, *, hub: Hub) -> Rules | None:
    """What applies to it; None: it is left alone. The Hub is asked only about a repository that can have rules.

    Raises InputError for a merge-bot.yml that is wrong, and what `hub.open` raises.
    """
    if not may_watch(config, repository):
        return None
    if not config.repository_file.read:
        return rules_for(config, repository)
    files = hub.open(repository, revision=commit).files
    there = FILE in files.sizes()
    return rules_for(config, repository, files.read(FILE, end=LARGEST + 1) if there else None)
