"""What the Hub answers when it refuses: one exception that carries status, X-Error-Code and sentence."""

from collections.abc import Mapping


class HubError(Exception):
    """A refusal, rendered by the server as JSON plus the headers that the real client reads."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


class MovedError(Exception):
    """The repository has another name by now; the server answers with 307 to the same path below it."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(f"{old} -> {new}")
        self.old = old
        self.new = new


def repo_not_found(*, anonymous: bool) -> HubError:
    """Missing and hidden repositories look alike: 401 to strangers, 404 to those who logged in."""
    status, text = (401, "Invalid username or password.") if anonymous else (404, "Repository not found")
    return HubError(status, text, code="RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    return HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, commit: str | None = None) -> HubError:
    headers = {"X-Repo-Commit": commit} if commit else None
    return HubError(404, f"Entry not found: {path}", code="EntryNotFound", headers=headers)
