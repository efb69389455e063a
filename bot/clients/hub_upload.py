"""The files of one commit: what is added, its bytes to the Hub's storage, and whether they arrived."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from bot.clients import hub_target, hub_xet
from bot.clients.http import retrying
from bot.clients.hub_errors import redacted
from bot.clients.hub_target import ADAPTER_FILE
from bot.errors import InternalError
from bot.progress import Progress
from bot.records import Check, Verdict
from bot.wording import counted, size

Addition = CommitOperationAdd
Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete
NOTHING_IGNORED = "# nothing is ignored\n"  # else a .gitignore of the repository silently drops weights


def additions(
    folder: Path, texts: Mapping[str, str | bytes], *, sent: Mapping[str, Addition] | None = None
) -> list[Addition]:
    """Every file of the folder, hidden ones aside, and the texts; a text replaces the file of its name.

    `sent`: files that are in the Hub's storage already, by their names.
    """
    sent = sent or {}
    paths = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    shown = {
        name: path for name, path in paths.items() if not any(part[0] == "." for part in name.split("/"))
    }
    if adapter := next((name for name in shown if ADAPTER_FILE.fullmatch(name)), None):
        raise InternalError(
            f"The merged model holds {adapter}, with which the adapter would be applied twice.",
            advice="Please report this; nothing was published.",
            code="adapter-in-result",
        )
    files = [sent.get(n) or CommitOperationAdd(n, path) for n, path in shown.items() if n not in texts]
    given = {name: text.encode() if isinstance(text, str) else text for name, text in texts.items()}
    return files + [CommitOperationAdd(name, data) for name, data in given.items()]


def content(added: list[Addition], name: str) -> str:
    """The text of one of the files; empty when it is not among them."""
    for addition in added:
        if addition.path_in_repo == name:
            with addition.as_file() as file:
                return file.read().decode("utf-8", errors="replace")
    return ""


def upload(  # file by file, so that there is something to tell
    api: HfApi, repo_id: str, added: list[Addition], *, pr: bool, attempts: int, progress: Progress
) -> None:
    """Bring the files into the Hub's storage, without a commit. Doing it again uploads only what is missing."""
    added = [addition for addition in added if not addition._is_uploaded]  # noqa: SLF001 - the client has no other word
    progress.begin(f"Uploading to {repo_id}", total=sum(addition.upload_info.size for addition in added))
    with quiet():
        for addition in sorted(added, key=lambda a: a.upload_info.size):
            one(api, repo_id, addition, pr=pr, attempts=attempts)
            progress.advance(addition.upload_info.size)
    progress.end()


def stored(api: HfApi, repo_id: str, commit: str, *, attempts: int) -> dict[str, RepoFile]:
    """Every file of a commit as the Hub lists it."""

    def listed() -> list[RepoFile]:
        found = api.list_repo_tree(repo_id, recursive=True, revision=commit)
        return [file for file in found if isinstance(file, RepoFile)]

    return {file.path: file for file in retrying(listed, attempts=attempts)}


def check_stored(
    api: HfApi, repo_id: str, commit: str, added: list[Addition], *, checked: Mapping[str, str], attempts: int
) -> Check:
    """Check `stored`: whether the Hub lists at that commit what was checked and sent."""
    figure = f"{counted(len(added), 'file')}, {size(sum(a.upload_info.size for a in added))}"
    try:
        there = stored(api, repo_id, commit, attempts=attempts)
    except (HfHubHTTPError, httpx2.TransportError) as error:  # it is published all the same
        detail = f"The Hub did not list them ({redacted(str(error)).rstrip('.')})."
        return Check(name="stored", verdict="skipped", figure=figure, detail=detail)
    found = fault(added, there, checked=checked)
    detail = f"{found}." if found else "The Hub lists every file with the digest that it had here."
    verdict: Verdict = "failed" if found else "passed"
    return Check(name="stored", verdict=verdict, figure=figure, detail=detail)


def fault(added: list[Addition], there: Mapping[str, RepoFile], *, checked: Mapping[str, str]) -> str | None:
    """What is wrong with what the Hub has stored, in words; None when it is what was checked and sent.

    Large files are held against the SHA-256 of the checks (`checked`, by name), small ones against git's digest of what
    was sent. Nothing else may lie there that would be loaded with them or in their place.
    """
    for addition in added:
        name = addition.path_in_repo
        if not _same(addition, there.get(name), checked=checked.get(name)):
            return f"{name} is not there as it was {'checked' if name in checked else 'sent'}"
    names = {addition.path_in_repo for addition in added}
    beside = hub_target.shadow(there.keys() - names, added=names)
    return (
        f"{beside} lies there, too, and would be loaded with the weights or in their place"
        if beside
        else None
    )


def one(api: HfApi, repo_id: str, addition: Addition, *, pr: bool, attempts: int) -> None:
    """Bring one file into the Hub's storage, unless it is there. Raises HostError, or the client's errors."""

    def send() -> None:
        api.preupload_lfs_files(
            repo_id, [addition], create_pr=pr, free_memory=False, gitignore_content=NOTHING_IGNORED
        )

    def by_either() -> None:
        with hub_xet.named(f"upload {addition.path_in_repo} to {repo_id}"):
            hub_xet.or_lfs(send, api=api, repo_id=repo_id, pr=pr)

    retrying(by_either, attempts=attempts)


def _same(addition: Addition, there: RepoFile | None, *, checked: str | None) -> bool:
    if there is None or there.size != addition.upload_info.size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == (checked or addition.upload_info.sha256.hex())
    with addition.as_file() as file:
        data = file.read()
    return there.blob_id == git_hash(data) and checked in (None, hashlib.sha256(data).hexdigest())


@contextmanager
def quiet() -> Iterator[None]:
    """Without the client's own progress bars, which would write over ours."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
