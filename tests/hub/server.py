"""The loopback hub as tests use it: start, stop, seed with users and repositories, break on purpose."""

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from .blobs import Blobs
from .deliveries import Delivery
from .faults import Fault, Faults
from .handler import HubServer, Journal, Record
from .jobs import Jobs
from .records import FileEntry, Repo
from .state import State
from .store import LFS_SUFFIXES
from .xet import Cas

SWITCHES = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
    "NO_PROXY": "127.0.0.1",
}
Content = bytes | str | Path | FileEntry | None


class LoopbackHub:
    """A Hugging Face Hub on 127.0.0.1, for `HfApi(endpoint=hub.url)` or HF_ENDPOINT.

    `xet`: it offers Xet storage too, to clients in this process.
    """

    def __init__(self, root: Path | str, *, port: int = 0, verbose: bool = False, xet: bool = False) -> None:
        self.state = State(Path(root), xet=xet)
        self.faults = Faults()
        self._journal = Journal()
        self._port, self._verbose = port, verbose
        self._listeners: list[HubServer] = []

    # life

    def start(self) -> Self:
        for port in (self._port, 0):
            listener = HubServer(
                port, state=self.state, faults=self.faults, journal=self._journal, verbose=self._verbose
            )
            self._listeners.append(listener)
            threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
        self.state.url, self.state.cdn_url = (listener.address for listener in self._listeners)
        self.state.jobs.environment = SWITCHES
        return self

    def stop(self) -> None:
        self.faults.closing.set()
        self.state.jobs.close()
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()
            listener.hang_up()
        self._listeners.clear()
        self.state.tell.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return self.state.url

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def multipart_threshold(self) -> int:
        """LFS files above this size are uploaded in parts."""
        return self.state.multipart_threshold

    @multipart_threshold.setter
    def multipart_threshold(self, size: int) -> None:
        self.state.multipart_threshold = size
        self.state.part_size = min(self.state.part_size, size)

    def environment(self, user: str | None = None, *, role: str = "write") -> dict[str, str]:
        """What a subprocess needs so that its Hub is this one; set HF_HOME too, for a cache of its own."""
        token = self.token(user, role=role) if user else ""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": token, **SWITCHES}

    # seeding, past all access rules

    def add_user(self, name: str, *, orgs: Iterable[str] = (), role: str = "write") -> str:
        """A user and a token; the same call again gives the same token."""
        return self.state.accounts.add(name, orgs=orgs, role=role)

    def token(self, name: str, *, role: str = "write") -> str:
        return self.state.accounts.token(name, role=role)

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, Content] | Path,
        *,
        message: str = "Add files",
        author: str | None = None,
        repo_type: str = "model",
        revision: str = "main",
        private: bool | None = None,
        gated: str | bool | None = None,
    ) -> str:
        """Commit files (bytes, text, a path, or None to delete; or one folder); the answer is the commit's id.

        The repository is made when it is missing. Files above 64 MiB are hard-linked where possible.
        """
        store = self.state.store
        author = author or repo_id.split("/", maxsplit=1)[0]
        entries = {path: _entry(store.blobs, path, content) for path, content in _listed(files).items()}
        with store.lock:
            repo = store.find(repo_type, repo_id) or store.create(repo_type, repo_id, author=author)
            repo.private = repo.private if private is None else private
            repo.gated = repo.gated if gated is None else ("auto" if gated is True else gated)
            head = store.resolve(repo, revision if revision in repo.branches else "main")
            before = repo.branches.get(revision)
            merged = {path: entry for path, entry in ({**head.files, **entries}).items() if entry}
            self._into_xet(entries.values())
            repo.objects.extend({entry.sha256 for entry in merged.values() if entry.lfs} - set(repo.objects))
            made = store.add_commit(repo, parent=head.oid, title=message, author=author, files=merged)
            repo.branches[revision] = made.oid
            store.save(repo)
        self.state.tell.pushed(repo, f"refs/heads/{revision}", before, made.oid)
        return made.oid

    @property
    def cas(self) -> Cas:
        """The Xet storage of a hub that has one."""
        assert self.state.store.cas is not None, "LoopbackHub(…, xet=True)"
        return self.state.store.cas

    def _into_xet(self, entries: Iterable[FileEntry | None]) -> None:
        store = self.state.store
        for entry in entries if store.cas else ():
            if entry and entry.lfs and store.xet_hash(entry) is None:
                self.cas.put(store.blobs.path(entry.sha256), entry.sha256)

    def _repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        repo = self.state.store.find(repo_type, repo_id)
        if repo is None:
            raise KeyError(f"{repo_type} {repo_id}")
        return repo

    def delete_repo(self, repo_id: str, *, repo_type: str = "model") -> None:
        self.state.store.delete(self._repo(repo_id, repo_type))

    def rename(self, old: str, new: str, *, repo_type: str = "model") -> None:
        """The old name answers with a redirect from now on."""
        self.state.store.move(self._repo(old, repo_type), new)

    def alias(self, old: str, new: str) -> None:
        """A name without an owner, from before the Hub had any: it answers with a redirect."""
        self.state.store.alias(old, new)

    def trust(self, repo_id: str, subject: str) -> None:
        """Let workflows with this subject publish to a repository."""
        self.state.trusted[repo_id] = (*self.state.trusted.get(repo_id, ()), subject)

    def sign_in(self, person: str, *, redirect_uri: str = "") -> None:
        """Who sits at the browser when somebody is sent to /oauth/authorize; nobody declines. See `state.oauth`."""
        self.state.oauth.person = person
        self.state.oauth.redirect_uri = redirect_uri or self.state.oauth.redirect_uri

    def grant(self, repo_id: str, user: str, *, repo_type: str = "model") -> None:
        """Let a user download from a gated repository."""
        repo = self._repo(repo_id, repo_type)
        with self.state.store.lock:
            repo.grants.append(user)
            self.state.store.save(repo)

    def files(self, repo_id: str, *, revision: str = "main", repo_type: str = "model") -> dict[str, Path]:
        """Where the content of each file lies on disk: for looking, not for writing."""
        store = self.state.store
        commit = store.resolve(self._repo(repo_id, repo_type), revision)
        return {path: store.blobs.path(entry.sha256) for path, entry in commit.files.items()}

    # watching and breaking

    @property
    def requests(self) -> tuple[Record, ...]:
        """Everything served so far, oldest first."""
        return self._journal.read()

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """Every payload sent to a webhook so far, oldest first; waits for those under way."""
        return self.state.tell.read()

    @property
    def jobs(self) -> Jobs:
        """The machines that the hub rents out, and what runs on them."""
        return self.state.jobs

    def clear_requests(self) -> None:
        self._journal.read()
        self._journal.clear()

    def fault(
        self,
        match: str,
        *,
        method: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        hang: float | None = None,
        drop_after: int | None = None,
        slow: int | None = None,
        times: int | None = None,
    ) -> None:
        """Break requests whose raw path and query contain `match` (or match it as a regular expression).

        `status` answers with that error, `hang` stays silent for so many seconds, `drop_after` cuts the
        connection after so many bytes of a longer body, `slow` is bytes per second. `times` limits how often;
        without it the fault stays until `clear_faults`.
        """
        self.faults.add(Fault(match, method, status, headers or {}, hang, drop_after, slow, times))

    def clear_faults(self) -> None:
        self.faults.clear()


def _listed(files: Mapping[str, Content] | Path) -> Mapping[str, Content]:
    if not isinstance(files, Path):
        return files
    return {str(path.relative_to(files)): path for path in sorted(files.rglob("*")) if path.is_file()}


def _entry(blobs: Blobs, path: str, content: Content) -> FileEntry | None:
    if content is None or isinstance(content, FileEntry):  # whose content somebody else answers for
        return content
    if isinstance(content, Path):
        return blobs.add_file(content, lfs=path.endswith(LFS_SUFFIXES) or content.stat().st_size > 10 << 20)
    data = content.encode() if isinstance(content, str) else content
    return blobs.add_bytes(data, lfs=path.endswith(LFS_SUFFIXES) or len(data) > 10 << 20)
