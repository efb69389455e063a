"""The adapters of a GitHub PR: folders that it changes, and models on the Hub that it links to.

What lies there is a stranger's: its files are copied, through GitHub's API, and nothing of it is executed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from bot.connect import LazyHub
from bot.doors.ground import Ground
from bot.errors import InputError, MergeBotError, RefusedError
from bot.forge import ChangedFile, PullRequest
from bot.plan import adapter_config, card
from bot.plan.local import open_folder
from bot.trigger.github import links

FILES = frozenset({adapter_config.FILE, adapter_config.WEIGHTS, adapter_config.PICKLE})
MAIN = re.compile(r"@main(?=:|$)")
MOST = 5  # adapters that one GitHub PR is looked through for
MOST_FOLDERS = 20  # that are looked into for them
MOST_BYTES = 200 * 10**9  # of a folder
MOST_UNASKED = 5 * 10**9  # where a push is all that asked for it, which may be a stranger's


@dataclass(frozen=True, kw_only=True)
class Target:
    """An adapter to work on: `what` it is called, and on the Hub its `reference`, or its `folder` in the GitHub PR."""

    what: str
    reference: str = ""
    folder: str | None = None


def changed(pull: PullRequest, *, ground: Ground) -> tuple[Target, ...]:
    """The adapter folders that the GitHub PR adds or changes, as they are at its head."""
    files = ground.forge.changed_files(pull.number)
    folders = dict.fromkeys(str(PurePosixPath(f.path).parent) for f in files if _is_adapters(f))
    looked_at = islice(folders, MOST_FOLDERS)
    there = islice((f for f in looked_at if _has_config(f, pull=pull, ground=ground)), MOST)
    return tuple(Target(what=folder, folder="" if folder == "." else folder) for folder in there)


def linked(text: str, *, ground: Ground) -> tuple[Target, ...]:
    """The adapters among the models that the description links to."""
    hub = LazyHub(ground.settings)
    there = islice((name for name in links(text) if _is_adapter(name, hub=hub)), MOST)
    return tuple(on_hub(f"{name}@main") for name in there)


def on_hub(reference: str) -> Target:
    """An adapter on the Hub; that it is the main branch's goes without saying."""
    return Target(what=MAIN.sub("", reference), reference=reference)


def fetched(target: Target, *, head: str, fork: str | None, ground: Ground, limit: int) -> str:
    """The adapter as the pipeline takes it: a copy of the folder at the pinned head, or what it is called on the Hub.

    Raises RefusedError for a folder that speaks of folders of this machine, or holds more than `limit` bytes.
    """
    if target.folder is None:
        return target.reference
    digest = hashlib.sha256(f"{head}/{target.folder}".encode()).hexdigest()[:16]
    into = ground.folder / digest / (PurePosixPath(target.folder).name or "adapter")
    if not into.is_dir():
        partial = into.with_name("partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that died
        partial.mkdir(parents=True)
        limit = min(limit, ground.settings.terms.limits.adapter_bytes or limit)
        ground.forge.download_folder(target.folder, ref=head, into=partial, limit=limit, repository=fork)
        partial.rename(into)
    _check_names_no_folder(into, what=target.what)
    return str(into)


def _is_adapters(file: ChangedFile) -> bool:
    return file.status != "removed" and PurePosixPath(file.path).name in FILES


def _has_config(folder: str, *, pull: PullRequest, ground: Ground) -> bool:
    listed = ground.forge.list_folder("" if folder == "." else folder, ref=pull.head_sha)
    return any(entry.name == adapter_config.FILE and entry.kind == "file" for entry in listed)


def _is_adapter(name: str, *, hub: LazyHub) -> bool:
    """Whether the link leads to an adapter that can be seen; a link is not a command, so the rest is passed over."""
    try:
        return adapter_config.FILE in hub.open(name).files.sizes()
    except MergeBotError:
        return False


def _check_names_no_folder(folder: Path, *, what: str) -> None:
    """A local adapter may name a base in a local folder, and this one's author has no business with this machine's."""
    model = open_folder(folder)
    try:
        config, _ = adapter_config.parse(adapter_config.read_bytes(model.files), files=model.files)
    except InputError:  # nobody will make more of it; the doctor says what is wrong
        config = {}
    for text in (*_strings(config), *card.names(card.read(model.files))):
        if _is_model_folder(text):
            raise RefusedError(
                f"{what} names {text!r}, which is a folder where the bot runs.",
                advice="Name the base model as it is called on the Hub, owner/name.",
                code="local-base",
            )


def _strings(value: Any) -> Iterator[str]:
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict | list):
            rest.extend(item.values() if isinstance(item, dict) else item)


def _is_model_folder(text: str) -> bool:
    try:
        return bool(text) and (Path(text).expanduser() / "config.json").is_file()
    except (OSError, RuntimeError, ValueError):  # far too long, nobody's home, a null byte
        return False
