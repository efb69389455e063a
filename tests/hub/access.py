"""Who may see, download and change what, and how the Hub words its refusals."""

from .accounts import Account
from .errors import HubError, repo_not_found
from .records import Discussion, Repo


def owns(account: Account | None, namespace: str) -> bool:
    return account is not None and namespace in account.namespaces


def can_see(account: Account | None, repo: Repo) -> bool:
    return not repo.private or owns(account, repo.namespace)


def can_download(account: Account | None, repo: Repo) -> bool:
    granted = account is not None and account.name in repo.grants
    return can_see(account, repo) and (not repo.gated or granted or owns(account, repo.namespace))


def require_visible(account: Account | None, repo: Repo | None) -> Repo:
    if repo is None or not can_see(account, repo):
        raise repo_not_found(anonymous=account is None)
    return repo


def require_download(account: Account | None, repo: Repo) -> None:
    """Metadata of a gated repository is public, its content is not."""
    if can_download(account, repo):
        return
    who = "Please log in." if account is None else "You are not in the authorized list."
    text = f"Access to {repo.type} {repo.id} is restricted. {who}"
    raise HubError(401 if account is None else 403, text, code="GatedRepo")


def require_writer(account: Account | None) -> Account:
    """Some logged-in user with a token that may write.

    The real client tells a 401 on a repository from other 401s by an https-only pattern, so over http
    only X-Error-Code leads it to RepositoryNotFoundError.
    """
    if account is None:
        raise repo_not_found(anonymous=True)
    if account.role != "write":
        raise HubError(403, "Forbidden: this token is read-only; a token with the write role is needed")
    return account


def require_namespace(account: Account | None, namespace: str, repo_type: str) -> Account:
    writer = require_writer(account)
    if not owns(writer, namespace):
        text = f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}"'
        raise HubError(403, text)
    return writer


def require_write(account: Account | None, repo: Repo) -> Account:
    writer = require_writer(account)
    if not owns(writer, repo.namespace):
        raise HubError(403, "Forbidden: you do not have write access to this repository")
    return writer


def require_participant(account: Account | None, repo: Repo, discussion: Discussion) -> Account:
    """The author of a discussion and the repository's writers may change it."""
    writer = require_writer(account)
    if writer.name != discussion.author:
        require_write(account, repo)
    return writer


def require_push(account: Account | None, repo: Repo, *, create_pr: bool, pull: Discussion | None) -> Account:
    """Everyone may open a Hub PR on what they see; only its author and the writers push to it."""
    writer = require_writer(account)
    if pull is not None:
        return require_participant(account, repo, pull)
    if not create_pr and not owns(writer, repo.namespace):
        raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    return writer
