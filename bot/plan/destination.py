"""Where a result goes: the text of `--to` → `Destination`. Reads neither disk nor network."""

from __future__ import annotations

import re

from bot.errors import InputError
from bot.request import Destination

# The Hub's rules for a repo id, as `huggingface_hub.utils.validate_repo_id` has them; a test compares the two.
_NAME = r"\b[\w\-.]{1,96}\b"
_REPO_ID = re.compile(rf"{_NAME}/{_NAME}", re.ASCII)
_FOLDER_STARTS = ("./", "../", "/", "~")


def parse(text: str, *, pr: bool = False, public: bool = False) -> Destination:
    """A folder iff the text looks like a path, else a Hub repository `owner/name`, with `pr` a Hub PR on it."""
    if text in {".", ".."} or text.startswith(_FOLDER_STARTS):
        return _folder(text, pr=pr, public=public)
    if not is_repo_id(text):
        raise InputError(
            f"{text!r} is neither a folder nor a Hub repository.",
            advice=f"Write ./{text.lstrip('/') or 'merged'} for a folder, or owner/name for a Hub repository.",
            code="destination-unknown",
        )
    if pr and public:
        raise InputError(
            "A Hub PR goes to a repository that exists, so --public has nothing to decide.",
            advice="Leave out --public, or leave out --pr to publish to a repository of its own.",
            code="public-with-pr",
        )
    return Destination(kind="hub_pr" if pr else "repository", location=text, public=public)


def is_repo_id(text: str) -> bool:
    """Whether the Hub would accept `text` as `owner/name`."""
    wellformed = _REPO_ID.fullmatch(text) is not None
    return wellformed and "--" not in text and ".." not in text and not text.endswith(".git")


def _folder(text: str, *, pr: bool, public: bool) -> Destination:
    for flag, meant in (("--pr", pr), ("--public", public)):
        if meant:
            raise InputError(
                f"{text} is a folder, and {flag} is for Hub repositories.",
                advice=f"Leave out {flag}, or name a Hub repository as owner/name.",
                code=f"{flag.lstrip('-')}-with-folder",
            )
    return Destination(kind="folder", location=text)
