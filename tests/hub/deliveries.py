"""Webhooks as the Hub sends them, payload version 3: one POST per registered webhook, in order, never again.

https://huggingface.co/docs/hub/webhooks. The Hub limits a webhook to 1,000 deliveries a day; this one does not.
"""

import hashlib
import json
import queue
import threading
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from .access import can_see
from .accounts import Account
from .records import Discussion, Repo

if TYPE_CHECKING:
    from .state import State

TIMEOUT = 30.0  # seconds that the Hub waits for an answer


@dataclass(frozen=True)
class Delivery:
    """One payload as it was sent; status 0 means that nobody answered."""

    url: str
    payload: dict[str, Any]
    status: int
    seconds: float


def user_id(name: str) -> str:
    """What a payload has in place of a user's name."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]


class Deliveries:
    """Tells every webhook that watches a repository what happened there, from a thread of its own."""

    def __init__(self, state: "State") -> None:
        self._state = state
        self._queue: queue.Queue[tuple[dict[str, Any], dict[str, Any]] | None] = queue.Queue()
        self._done: list[Delivery] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def read(self, patience: float = 10.0) -> tuple[Delivery, ...]:
        """All so far, once nothing is under way any more."""
        until = time.monotonic() + patience
        while self._queue.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)
        return tuple(self._done)

    def stop(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(1.0)

    # what happened

    def pushed(self, repo: Repo, ref: str, old: str | None, new: str | None) -> None:
        moved = [{"ref": ref, "oldSha": old, "newSha": new}]
        self._tell(repo, "repo.content", "update", updatedRefs=moved)

    def changed(self, repo: Repo, action: str, *, name: str | None = None, **more: Any) -> None:
        """The repository itself; `name` is what it was called before."""
        self._tell(repo, "repo", action, name=name, **more)

    def configured(self, repo: Repo, config: dict[str, Any]) -> None:
        self._tell(repo, "repo.config", "update", updatedConfig=config)

    def discussed(
        self, repo: Repo, found: Discussion, action: str, *, comment: dict[str, Any] | None = None
    ) -> None:
        more = {"discussion": self._discussion(repo, found)}
        if comment is not None:
            more["comment"] = self._comment(repo, found, comment)
        self._tell(repo, "discussion", action, **more)

    def commented(self, repo: Repo, found: Discussion, comment: dict[str, Any], action: str) -> None:
        more = {"discussion": self._discussion(repo, found), "comment": self._comment(repo, found, comment)}
        self._tell(repo, "discussion.comment", action, **more)

    # payloads

    def _tell(self, repo: Repo, scope: str, action: str, *, name: str | None = None, **more: Any) -> None:
        for hook_id, hook in self._state.webhooks().items():
            if self._wants(hook, repo, scope, name or repo.id):
                shown = self._repo(repo, scope, name or repo.id)
                tail = {"webhook": {"id": hook_id, "version": 3}}
                payload = {"event": {"action": action, "scope": scope}, "repo": shown, **more, **tail}
                self._start()
                self._queue.put((hook["webhook"], payload))

    def _wants(self, hook: dict[str, Any], repo: Repo, scope: str, name: str) -> bool:
        asked, domain = hook["webhook"], scope.split(".", maxsplit=1)[0]
        owner = Account(hook["owner"], self._state.accounts.orgs(hook["owner"]), "read")
        names = {
            ("user", name.split("/", maxsplit=1)[0]),
            ("org", name.split("/", maxsplit=1)[0]),
            (repo.type, name),
        }
        watched = any((item["type"], item["name"]) in names for item in asked.get("watched", []))
        domains = asked.get("domains") or ["repo", "discussion"]
        return watched and domain in domains and not asked["disabled"] and can_see(owner, repo)

    def _repo(self, repo: Repo, scope: str, name: str) -> dict[str, Any]:
        prefix = "" if repo.type == "model" else f"{repo.type}s/"
        api = f"{self._state.url}/api/{repo.type}s/{name}"
        shown: dict[str, Any] = {"type": repo.type, "name": name, "id": repo.key, "private": repo.private}
        shown |= {"url": {"web": f"{self._state.url}/{prefix}{name}", "api": api}}
        if scope.startswith("repo"):
            shown |= {"headSha": repo.branches.get("main"), "tags": []}
        return shown | {"owner": {"id": user_id(name.split("/", maxsplit=1)[0])}}

    def _discussion(self, repo: Repo, found: Discussion) -> dict[str, Any]:
        page = f"/{repo.page}/discussions/{found.num}"
        changes = {"base": "refs/heads/main"}
        if found.merge_commit:
            changes["mergeCommitId"] = found.merge_commit
        return {
            "id": user_id(f"{repo.key} {found.num}"),
            "title": found.title,
            "url": {"web": self._state.url + page, "api": f"{self._state.url}/api/{repo.type}s{page}"},
            "status": found.status,
            "author": {"id": user_id(found.author)},
            "num": found.num,
            "isPullRequest": found.pull_request,
        } | ({"changes": changes} if found.pull_request else {})

    def _comment(self, repo: Repo, found: Discussion, event: dict[str, Any]) -> dict[str, Any]:
        web = f"{self._state.url}/{repo.page}/discussions/{found.num}#{event['id']}"
        shown = {"id": event["id"], "author": {"id": user_id(event["author"]["name"])}}
        shown |= {"hidden": event["data"]["hidden"], "url": {"web": web}}
        return shown | ({} if event["data"]["hidden"] else {"content": event["data"]["latest"]["raw"]})

    # sending

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, daemon=True)
                self._thread.start()

    def _send_all(self) -> None:
        while (item := self._queue.get()) is not None:
            self._done.append(_sent(*item))
            self._queue.task_done()


def _sent(hook: dict[str, Any], payload: dict[str, Any]) -> Delivery:
    headers = {"Content-Type": "application/json", "User-Agent": "Hugging Face Webhook"}
    headers |= {"X-Webhook-Secret": hook["secret"]} if hook.get("secret") else {}
    started, status = time.monotonic(), 0
    request = urllib.request.Request(hook["url"], json.dumps(payload).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            status = reply.status
    except HTTPError as error:
        status = error.code
    except OSError:
        pass
    return Delivery(hook["url"], payload, status, time.monotonic() - started)
