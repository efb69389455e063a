"""The Hub's cache of what was fetched, in one folder: how much is there, and what of it may go."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, CacheNotFound, HFCacheInfo, scan_cache_dir

LEFT = 86_400.0  # seconds after which a download that was broken off is not gone on with any more


def holds(folder: Path, models: frozenset[str]) -> int:
    """Bytes that are there of these models, which are `owner/name@commit`."""
    found = _scanned(folder)
    if found is None:
        return 0
    revisions = ((repo, one) for repo in found.repos for one in repo.revisions)
    return sum(one.size_on_disk for repo, one in revisions if f"{repo.repo_id}@{one.commit_hash}" in models)


def mark(folder: Path, models: Iterable[str]) -> None:
    """These are used now. Not left to the file system: many are mounted so that reading leaves no trace."""
    for model in models:
        for blob in (folder / _place(model) / "blobs").glob("*"):
            with suppress(OSError):
                os.utime(blob, (time.time(), blob.stat().st_mtime))


def shrink(
    folder: Path, *, most: int | None = None, lacks: int = 0, keep: frozenset[str] = frozenset()
) -> None:
    """Deletes at least `lacks` bytes, and until no more than `most` are left, the least recently used first.

    Nothing goes of the models in `keep`, at whatever commit; what is there may be too little then.
    """
    found = _scanned(folder)
    if found is None:
        return
    kept = {_place(model) for model in keep}
    _clear(folder, found, kept=kept)
    goal = max(lacks, 0 if most is None else found.size_on_disk - most)
    stays = {one.commit_hash for repo in found.repos if repo.repo_path.name in kept for one in repo.revisions}
    offered = sorted(
        ((_used(one, repo), one.commit_hash) for repo in found.repos for one in repo.revisions),
    )
    gone: list[str] = []
    for _, commit in offered:
        if found.delete_revisions(*gone).expected_freed_size >= goal:
            break
        if commit not in stays:
            gone.append(commit)
    found.delete_revisions(*gone).execute()


def _scanned(folder: Path) -> HFCacheInfo | None:
    try:
        return scan_cache_dir(folder)
    except CacheNotFound:
        return None


def _used(revision: CachedRevisionInfo, repo: CachedRepoInfo) -> float:
    """When, in seconds since 1970."""
    return max((file.blob_last_accessed for file in revision.files), default=repo.last_modified)


def _clear(folder: Path, found: HFCacheInfo, *, kept: set[str]) -> None:
    """Removes what was broken off long ago, which counts nowhere: halves of files, halves of what was deleted."""
    whole = {repo.repo_path.name for repo in found.repos}
    broken = [path for path in folder.glob("models--*") if path.name not in whole]
    halves = [one.file_path for one in found.incomplete_files if one.file_path.parts[-3] in whole]
    for path, name in [*((path, path.name) for path in broken), *((path, path.parts[-3]) for path in halves)]:
        with suppress(OSError):
            if name not in kept and path.stat().st_mtime < time.time() - LEFT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _place(model: str) -> str:
    """The folder of `owner/name@commit`."""
    return "models--" + model.partition("@")[0].replace("/", "--")
