"""How models are written down: `owner/name@revision:subfolder`, or a local folder, also with `:subfolder`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bot.errors import InputError, RefusedError
from bot.records import Pinned

PATH_STARTS = ("./", "../", "/", "~")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
# A file in the Hub's cache, and a page of the Hub: both say which repository was meant.
CACHED = re.compile(
    r"(?:^|[\\/])models--([\w.-]+?)--([\w.-]+?)(?:[\\/]snapshots[\\/]([0-9a-f]{40}))?(?:[\\/]|$)", re.ASCII
)
PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/(?:tree|resolve|blob)/([\w.-]+).*|/)?",
    re.ASCII,
)
COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
LONGEST = 1024  # characters of an address or a path that somebody has meant
DRIVE = re.compile(r"[A-Za-z]:[\\/]|[A-Za-z]:$")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model as somebody wrote it: a repo id with revision and subfolder, or a folder."""

    repo_id: str | None = None
    revision: str | None = None
    subfolder: str = ""
    folder: Path | None = None


def parse(text: str) -> Reference:
    """A reference typed by the user: folders are allowed. Raises InputError when it is neither."""
    if "://" in text:
        raise InputError(
            f"{text!r} is a web address.",
            advice="Write owner/name as it stands in the address.",
            code="reference-unknown",
        )
    if is_path(text) or (text and (_is_folder(text) or _is_folder(text.rpartition(":")[0] or "-"))):
        return Reference(folder=_folder(text))
    head, _, subfolder = text.partition(":")
    repo_id, _, revision = head.partition("@")
    if not is_repo_id(repo_id):
        raise InputError(
            f"{text!r} is neither a folder nor a Hub repository.",
            advice="Write owner/name, optionally @revision and :subfolder, or ./folder.",
            code="reference-unknown",
        )
    _check_within(subfolder)
    return Reference(repo_id=repo_id, revision=revision or None, subfolder=subfolder)


def checked(pinned: Pinned) -> Pinned:
    """A repository at a commit that a stranger has written down. Raises RefusedError when it is none.

    A repo id that is a path would open a folder of this machine.
    """
    if pinned.kind == "hub" and is_repo_id(pinned.location) and COMMIT.fullmatch(pinned.commit):
        return pinned
    raise RefusedError(
        f"The plan names {pinned.location!r} at {pinned.commit!r}, which is no repository at a commit.",
        advice="Do not rely on it.",
        code="not-pinned",
    )


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def _folder(text: str) -> Path:
    try:
        return _found(text)
    except (OSError, RuntimeError, ValueError) as error:  # too long, nobody's home, a null byte
        raise InputError(
            f"{text[:100]!r} is no path: {str(error)[:100]}.",
            advice="Write owner/name, optionally @revision and :subfolder, or ./folder.",
            code="reference-unknown",
        ) from error


def _found(text: str) -> Path:
    """The folder, or with `:subfolder` behind it one that lies in it, unless the colon is part of a name."""
    folder = Path(text).expanduser()
    head, colon, subfolder = text.rpartition(":")
    if folder.exists() or not colon or DRIVE.match(text) or not Path(head).expanduser().is_dir():
        return folder
    _check_within(subfolder)
    return Path(head).expanduser() / subfolder


def _check_within(subfolder: str) -> None:
    if subfolder and any(part in {"", ".", ".."} for part in subfolder.split("/")):
        raise InputError(
            f"The subfolder {subfolder!r} leads out of the repository.",
            advice="Write it as it stands in the repository, like :checkpoint-500.",
            code="reference-unknown",
        )


def is_path(text: str) -> bool:
    """Whether the text looks like a path of some machine rather than a repo id."""
    return (
        text in {".", ".."} or text.startswith(PATH_STARTS) or "\\" in text or DRIVE.match(text) is not None
    )


def is_repo_id(text: str) -> bool:
    """Whether the Hub would accept the text as `owner/name` or as one of the old names without an owner."""
    return REPO_ID.fullmatch(text) is not None and "--" not in text and ".." not in text


def hidden(text: str) -> tuple[str, str | None] | None:
    """The repository and revision that a path into the Hub's cache, or a page's address, speaks of. Opens nothing."""
    if len(text) > LONGEST:
        return None
    if found := PAGE.fullmatch(text):
        repo_id, revision = found[1], found[2]
    elif found := CACHED.search(text):
        repo_id, revision = f"{found[1]}/{found[2]}", found[3]
    else:
        return None
    return (repo_id, revision) if is_repo_id(repo_id) else None
