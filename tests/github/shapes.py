"""Records → JSON with every field that GitHub's own description asks for; `base` is what the URLs begin with."""

import base64
from typing import Any
from urllib.parse import quote

from .git import TYPES, Line
from .state import Account, Pull, Repo, Said, State

USER_URLS = (
    "events", "followers", "following", "gists", "organizations", "received_events", "repos", "starred",
    "subscriptions",
)  # fmt: skip
REPO_URLS = (
    "archive", "assignees", "blobs", "branches", "collaborators", "comments", "commits", "compare", "contents",
    "contributors", "deployments", "downloads", "events", "forks", "git_commits", "git_refs", "git_tags", "hooks",
    "issue_comment", "issue_events", "issues", "keys", "labels", "languages", "merges", "milestones", "notifications",
    "pulls", "releases", "stargazers", "statuses", "subscribers", "subscription", "tags", "teams", "trees",
)  # fmt: skip


class Shapes:
    """How everything looks in answers."""

    def __init__(self, state: State, base: str) -> None:
        self.state, self.base, self.site = state, base, state.url

    def user(self, login: str | None) -> dict[str, Any] | None:
        if login is None:
            return None
        account: Account = self.state.account(login)
        url, page = (f"{place}/{quote(login)}" for place in (f"{self.base}/users", self.site))
        return {
            "login": login,
            "id": account.id,
            "node_id": f"U_{account.id}",
            "avatar_url": f"{page}.png",
            "gravatar_id": "",
            "url": url,
            "html_url": page,
            **{f"{name}_url": f"{url}/{name}" for name in USER_URLS},
            "type": account.type,
            "site_admin": False,
            "user_view_type": "public",
        }

    def repo(self, repo: Repo) -> dict[str, Any]:
        url, page = self.url(repo), f"{self.site}/{repo.full_name}"
        zero = ("forks", "forks_count", "open_issues", "open_issues_count", "stargazers_count", "watchers")
        yes = ("has_downloads", "has_issues", "has_projects", "has_wiki", "has_discussions")
        no = ("has_pages", "disabled")
        return {
            "id": repo.id,
            "node_id": f"R_{repo.id}",
            "name": repo.full_name.partition("/")[2],
            "full_name": repo.full_name,
            "owner": self.user(repo.owner),
            "private": repo.private,
            "archived": repo.archived,
            "fork": repo.fork_of is not None,
            "url": url,
            "html_url": page,
            **{f"{name}_url": f"{url}/{name}" for name in REPO_URLS},
            "clone_url": f"{page}.git",
            "svn_url": page,
            "git_url": f"git:{page.partition(':')[2]}.git",
            "ssh_url": f"git@example.com:{repo.full_name}.git",
            **dict.fromkeys(("mirror_url", "homepage", "language", "description", "license")),
            "default_branch": "main",
            **dict.fromkeys((*zero, "watchers_count", "size", "network_count", "subscribers_count"), 0),
            **dict.fromkeys(yes, True),
            **dict.fromkeys(no, False),
            **dict.fromkeys(("created_at", "updated_at", "pushed_at"), repo.created),
        }

    def url(self, repo: Repo) -> str:
        return f"{self.base}/repos/{repo.full_name}"

    def pull(self, repo: Repo, pull: Pull) -> dict[str, Any]:
        url, issue = f"{self.url(repo)}/pulls/{pull.number}", f"{self.url(repo)}/issues/{pull.number}"
        page = f"{self.site}/{repo.full_name}/pull/{pull.number}"
        links = {
            "self": url,
            "html": page,
            "issue": issue,
            "comments": f"{issue}/comments",
            "review_comments": f"{url}/comments",
            "review_comment": f"{self.url(repo)}/pulls/comments{{/number}}",
            "commits": f"{url}/commits",
            "statuses": f"{self.url(repo)}/statuses/{pull.head_sha}",
        }
        counts = ("comments", "review_comments", "commits", "additions", "deletions")
        return {
            "id": pull.number,
            "node_id": f"PR_{pull.number}",
            "number": pull.number,
            "url": url,
            "html_url": page,
            "diff_url": f"{page}.diff",
            "patch_url": f"{page}.patch",
            "issue_url": issue,
            **{
                f"{name}_url": links[name]
                for name in ("comments", "review_comments", "review_comment", "commits")
            },
            "statuses_url": links["statuses"],
            "_links": {name: {"href": href} for name, href in links.items()},
            "state": pull.state,
            "title": pull.title,
            "body": None,
            "user": self.user(pull.author),
            "author_association": "CONTRIBUTOR",
            "draft": pull.draft,
            "locked": pull.locked,
            "merged": pull.merged is not None,
            "merged_at": pull.merged,
            **dict.fromkeys(("created_at", "updated_at"), pull.created),
            "closed_at": pull.created if pull.state == "closed" else None,
            **dict.fromkeys(
                ("merge_commit_sha", "assignee", "milestone", "auto_merge", "active_lock_reason")
            ),
            **dict.fromkeys(("mergeable", "rebaseable", "merged_by")),
            "mergeable_state": "unknown",
            **{name: [] for name in ("assignees", "requested_reviewers", "requested_teams", "labels")},
            **dict.fromkeys(counts, 0),
            "changed_files": len(pull.files),
            "maintainer_can_modify": True,
            "head": self._end(pull.head_repository, pull.head_ref, pull.head_sha),
            "base": self._end(repo.full_name, pull.base_ref, repo.branches.get(pull.base_ref, "0" * 40)),
        }

    def _end(self, name: str | None, ref: str, sha: str) -> dict[str, Any]:
        repo = self.state.repos.get(name or "")
        owner = repo.owner if repo else "unknown"
        shown = {"repo": self.repo(repo) if repo else None, "user": self.user(owner if repo else None)}
        return {"label": f"{owner}:{ref}", "ref": ref, "sha": sha, **shown}

    def file(self, repo: Repo, pull: Pull, file: dict[str, Any]) -> dict[str, Any]:
        name, sha = file["filename"], pull.head_sha
        page = f"{self.site}/{repo.full_name}"
        counts = {"additions": 1, "deletions": 0, "changes": 1}
        urls = {
            "blob_url": f"{page}/blob/{sha}/{name}",
            "raw_url": f"{page}/raw/{sha}/{name}",
            "contents_url": f"{self.url(repo)}/contents/{name}?ref={sha}",
        }
        return {"sha": "a" * 40, **counts, **urls, **file}

    def comment(self, repo: Repo, said: Said) -> dict[str, Any]:
        url, pull = self.url(repo), f"{self.url(repo)}/pulls/{said.number}"
        page = f"{self.site}/{repo.full_name}/pull/{said.number}"
        shown = {
            "id": said.id,
            "node_id": f"C_{said.id}",
            "body": said.body,
            "user": self.user(said.author),
            "author_association": "CONTRIBUTOR",
            "created_at": said.created,
            "updated_at": said.created,
        }
        if said.kind == "issue":
            urls = {"url": f"{url}/issues/comments/{said.id}", "issue_url": f"{url}/issues/{said.number}"}
            return {**shown, **urls, "html_url": f"{page}#issuecomment-{said.id}"}
        urls = {"url": f"{url}/pulls/comments/{said.id}", "html_url": f"{page}#discussion_r{said.id}"}
        links = {"self": urls["url"], "html": urls["html_url"], "pull_request": pull}
        place = {
            "path": "adapter/adapter_config.json",
            "diff_hunk": "@@ -0,0 +1 @@",
            "pull_request_review_id": 1,
        }
        commits = dict.fromkeys(("commit_id", "original_commit_id"), "b" * 40)
        links = {"_links": {name: {"href": href} for name, href in links.items()}}
        return {**shown, **urls, **place, **commits, **links, "pull_request_url": pull}

    def reaction(self, id_: int, user: str, content: str) -> dict[str, Any]:
        facts = {"id": id_, "node_id": f"REA_{id_}", "content": content, "created_at": "2026-01-01T00:00:00Z"}
        return {**facts, "user": self.user(user)}

    def check_run(self, repo: Repo, run: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url(repo)}/check-runs/{run['id']}"
        output = {"title": None, "summary": None, "text": None, **run.get("output", {})}
        notes = {"annotations_count": 0, "annotations_url": f"{url}/annotations"}
        facts = {key: run.get(key) for key in ("conclusion", "started_at", "completed_at", "details_url")}
        return {
            "id": run["id"],
            "node_id": f"CR_{run['id']}",
            "name": run["name"],
            "head_sha": run["head_sha"],
            "external_id": run.get("external_id") or "",
            "url": url,
            "html_url": f"{self.site}/{repo.full_name}/runs/{run['id']}",
            "status": run["status"],
            **facts,
            "output": {**output, **notes},
            "check_suite": {"id": 1},
            "app": None,
            "pull_requests": [],
        }

    def status(self, repo: Repo, status: dict[str, Any]) -> dict[str, Any]:
        facts = {key: status.get(key) for key in ("state", "description", "target_url", "context")}
        return {
            "id": status["id"],
            "node_id": f"SC_{status['id']}",
            "url": f"{self.url(repo)}/statuses/{status['sha']}",
            "avatar_url": None,
            **facts,
            **dict.fromkeys(("created_at", "updated_at"), status["created_at"]),
            "creator": self.user(status["creator"]),
        }

    def line(self, repo: Repo, name: str, line: Line) -> dict[str, Any]:
        kind = TYPES.get(line.mode, "blob")
        facts = {"path": name, "mode": line.mode, "type": kind, "sha": line.sha}
        size = {} if line.size is None else {"size": line.size}
        return {**facts, **size, "url": f"{self.url(repo)}/git/{kind}s/{line.sha}"}

    def blob(self, repo: Repo, sha: str, data: bytes) -> dict[str, Any]:
        facts = {
            "sha": sha,
            "node_id": f"B_{sha}",
            "size": len(data),
            "url": f"{self.url(repo)}/git/blobs/{sha}",
        }
        return {**facts, "content": base64.encodebytes(data).decode(), "encoding": "base64"}

    def content(self, repo: Repo, path: str, kind: str, line: Line, ref: str) -> dict[str, Any]:
        """What the contents API says of one path, without its content."""
        tree = "trees" if line.mode in TYPES else "blobs"
        urls = {
            "url": f"{self.url(repo)}/contents/{path}?ref={ref}",
            "git_url": f"{self.url(repo)}/git/{tree}/{line.sha}",
            "html_url": f"{self.site}/{repo.full_name}/blob/{ref}/{path}",
        }
        download = f"{self.site}/{repo.full_name}/raw/{ref}/{path}" if tree == "blobs" else None
        links = {"self": urls["url"], "git": urls["git_url"], "html": urls["html_url"]}
        facts = {
            "type": kind,
            "size": line.size or 0,
            "name": path.rpartition("/")[2],
            "path": path,
            "sha": line.sha,
        }
        return {**facts, **urls, "download_url": download, "_links": links}
