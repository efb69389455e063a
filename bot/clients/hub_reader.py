"""Models on the Hub, read with the read token: pinned to a commit, headers by range, whole files into the cache.

What a volume holds already is not fetched.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import (
    HfApi,
    ModelInfo,
    constants,
    get_session,
    hf_hub_download,
    hf_hub_url,
    hf_raise_for_status,
    try_to_load_from_cache,
)
from huggingface_hub.hf_api import RepoSibling
from tqdm.auto import tqdm

from bot.clients import hub_xet, mounted
from bot.clients.http import retrying
from bot.clients.hub_errors import translated
from bot.errors import HostError, InputError
from bot.progress import Progress
from bot.records import Pinned
from bot.weights.files import Model


class HubReader:
    """Implements `bot.weights.files.Hub` over huggingface_hub. `cache` is a folder in place of the client's own.

    `mounts`: folders that hold a repository at a commit, by `owner/name@commit`.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        token: str | None,
        attempts: int,
        cache: Path | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> None:
        self._api = HfApi(endpoint=endpoint, token=token or False)
        self._attempts = attempts
        self._cache = cache
        self._mounts = mounts or {}
        self._checked: set[Path] = set()

    def open(self, repo_id: str, *, revision: str | None = None, subfolder: str = "") -> Model:
        """The repository at the commit that `revision` (default: main) names now.

        Raises InputError when repository, revision or subfolder do not exist, AccessError when they may not be read,
        HostError when the Hub does not answer.
        """
        label = f"{repo_id}@{revision}" if revision else repo_id
        with translated(f"open {label}"):
            info = retrying(lambda: self._info(repo_id, revision=revision), attempts=self._attempts)
        files = HubFiles(info, api=self._api, subfolder=subfolder, attempts=self._attempts)
        if subfolder and not files.sizes():
            raise InputError(
                f"{label} has no subfolder {subfolder}.",
                advice="Look at the repository's files for the right one.",
                code="no-such-subfolder",
            )
        pinned = Pinned(
            kind="hub",
            location=info.id,  # where a renamed repository is now
            commit=str(info.sha),
            revision=revision,
            subfolder=subfolder,
            private=bool(info.private),
            gated=bool(info.gated),
        )
        return Model(pinned, files)

    def _info(self, repo_id: str, *, revision: str | None) -> ModelInfo:
        return self._api.model_info(repo_id, revision=revision, files_metadata=True)

    def download(self, model: Model, *, names: list[str], progress: Progress) -> Path:
        """A folder in the Hub's cache that holds these files; what is there already is not fetched again.

        Raises AccessError, HostError, or MergeError when the disk is full, or what is mounted is not the Hub's.
        """
        if (place := mounted.folder(self._mounts, model.pinned)) is not None:
            return self._mounted(model, place / model.pinned.subfolder, names=names, progress=progress)
        pinned, sizes = model.pinned, model.files.sizes()
        paths = [str(PurePosixPath(pinned.subfolder) / name) for name in names]
        progress.begin(f"Fetching {pinned.location}", total=sum(sizes[name] for name in names))
        with translated(f"download {pinned.location}"):
            found = [self._fetch(pinned, path=path, progress=progress) for path in paths]
        progress.end()
        return Path(found[0].removesuffix(paths[0])) / pinned.subfolder

    def adds(self, model: Model, *, names: list[str], beside: Path) -> int:
        """Bytes that `download` would take of the disk of `beside`: those of files that are not here already."""
        cache = Path(self._cache or constants.HF_HUB_CACHE)
        there = next(path for path in (cache, *cache.absolute().parents) if path.exists())
        if mounted.folder(self._mounts, model.pinned) or there.stat().st_dev != beside.stat().st_dev:
            return 0
        return sum(
            size for name, size in model.files.sizes().items() if name in names and not self._has(model, name)
        )

    def _has(self, model: Model, name: str) -> bool:
        """Whether the cache has the file."""
        path = str(PurePosixPath(model.pinned.subfolder) / name)
        return isinstance(
            try_to_load_from_cache(
                model.pinned.location, path, cache_dir=self._cache, revision=model.pinned.commit
            ),
            str,
        )

    def fetch(self, model: Model, *, name: str, out: Path, progress: Progress) -> Path:
        """One file into the existing folder `out`, and not into the Hub's cache; of a volume there is a link.

        Raises HostError for one that is not what the Hub says it is, else what `download` raises.
        """
        pinned = model.pinned
        if mounted.folder(self._mounts, pinned) is not None:
            (out / name).symlink_to(self.download(model, names=[name], progress=progress) / name)
            return out / name
        path = str(PurePosixPath(pinned.subfolder) / name)
        beside = Path(tempfile.mkdtemp(prefix=".fetch-", dir=out))
        try:
            with translated(f"download {name} of {pinned.location}"):
                found = Path(self._fetch(pinned, path=path, progress=progress, folder=beside))
            self._check(model, name, found)
            return found.replace(out / name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _check(self, model: Model, name: str, path: Path) -> None:
        size, known = model.files.sizes()[name], model.files.digests().get(name)
        if path.stat().st_size == size:
            with path.open("rb") as file:
                if known is None or hashlib.file_digest(file, "sha256").hexdigest() == known:
                    return
        raise HostError(
            f"{name} of {model.pinned} did not arrive as the Hub lists it.",
            advice="Run the same command again.",
            code="download-damaged",
        )

    def _mounted(self, model: Model, place: Path, *, names: list[str], progress: Progress) -> Path:
        """That folder; each file is looked at once."""
        new = [name for name in names if place / name not in self._checked]
        ids = model.files.ids() if isinstance(model.files, HubFiles) else {}
        mounted.check(model, place, names=new, ids=ids, progress=progress)
        self._checked.update(place / name for name in new)
        return place

    def _fetch(self, pinned: Pinned, *, path: str, progress: Progress, folder: Path | None = None) -> str:
        """One file, in this thread: for the threads of snapshot_download, Ctrl-C waits until their files are there."""

        def call() -> str:
            with hub_xet.named(f"download {path} of {pinned.location}"):
                return hf_hub_download(
                    pinned.location,
                    path,
                    revision=pinned.commit,
                    endpoint=self._api.endpoint,
                    token=self._api.token,
                    cache_dir=self._cache,
                    local_dir=folder,
                    tqdm_class=_bar(progress),
                )

        return retrying(call, attempts=self._attempts)


class HubFiles:
    """Files of one repository at one commit, below a subfolder."""

    def __init__(self, info: ModelInfo, *, api: HfApi, subfolder: str, attempts: int) -> None:
        self._info, self._api, self._attempts = info, api, attempts
        self._prefix = f"{subfolder}/" if subfolder else ""

    @property
    def name(self) -> str:
        return f"{self._info.id}:{self._prefix.rstrip('/')}" if self._prefix else self._info.id

    def sizes(self) -> dict[str, int]:
        return {name: int(sibling.size or 0) for name, sibling in self._siblings().items()}

    def digests(self) -> dict[str, str]:
        """Those of the files in large file storage, of which the Hub lists them."""
        return {name: sibling.lfs.sha256 for name, sibling in self._siblings().items() if sibling.lfs}

    def ids(self) -> dict[str, str]:
        """What git calls the content of each file; of those in large file storage, the pointer's."""
        return {name: sibling.blob_id for name, sibling in self._siblings().items() if sibling.blob_id}

    def _siblings(self) -> dict[str, RepoSibling]:
        siblings = self._info.siblings or []
        inside = [s for s in siblings if _is_inside(s.rfilename) and s.rfilename.startswith(self._prefix)]
        return {s.rfilename.removeprefix(self._prefix): s for s in inside}

    def read(self, name: str, *, start: int = 0, end: int | None = None) -> bytes:
        size = self.sizes()[name]
        stop = size if end is None else min(end, size)
        if stop <= start:
            return b""
        with translated(f"read {name} of {self.name}"):
            return retrying(lambda: self._range(name, start=start, stop=stop), attempts=self._attempts)

    def _range(self, name: str, *, start: int, stop: int) -> bytes:
        url = hf_hub_url(
            self._info.id, f"{self._prefix}{name}", revision=self._info.sha, endpoint=self._api.endpoint
        )
        headers = {**self._api._build_hf_headers(), "Range": f"bytes={start}-{stop - 1}"}  # noqa: SLF001
        response = get_session().get(url, headers=headers, follow_redirects=True)
        hf_raise_for_status(response)
        body: bytes = response.content
        return body if response.status_code == 206 else body[start:stop]


def _is_inside(name: str) -> bool:
    """Whether a listed name stays in its repository; git holds no other, and a host could still send one."""
    return "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def _bar(progress: Progress) -> type[tqdm[Any]]:
    """A progress bar of the client's kind that passes its bytes on and shows nothing itself."""

    class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Xet shows two bars a file: what came over the network, and what it made of that.
            self.counts = kwargs.get("unit") == "B" and "downloading bytes" not in str(kwargs.get("desc"))
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self.counts and n:
                progress.advance(int(n))
            return None

    return Bar
