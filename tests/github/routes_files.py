"""What commits hold: paths, trees, blobs, and the large files beside them."""

import base64
import hashlib

from tests.hub.exchange import Reply

from .access import LEVELS, level, require
from .exchange import Call, Endpoint, GitHubError, as_json
from .git import MODES, Line
from .shapes import Shapes

INLINE = 1 << 20  # larger files come without their content
LFS = "application/vnd.git-lfs+json"


def contents(call: Call, path: str) -> Reply:
    require(call, "contents", "read")
    ref, objects = call.param("ref", "main"), call.repo.objects
    line = objects.find(call.repo.branches.get(ref, ref), path)
    if line is None:
        raise GitHubError(404, "Not Found")
    shapes = Shapes(call.state, call.base)
    if line.mode == MODES["folder"]:
        tree = objects.trees.get(line.sha)
        if tree is None:
            raise GitHubError(404, f"No commit found for the ref {ref}")
        below = path and f"{path}/"
        return as_json(
            [shapes.content(call.repo, below + name, _kind(one), one, ref) for name, one in tree.items()]
        )
    if line.mode == MODES["submodule"]:
        return as_json({**shapes.content(call.repo, path, "submodule", line, ref), "submodule_git_url": "x"})
    if line.mode == MODES["symlink"]:
        return _linked(call, path, line, ref)
    return _file(call, path, line, ref)


def _linked(call: Call, path: str, line: Line, ref: str) -> Reply:
    """GitHub follows a link to a file of the same repository, and shows any other."""
    target = call.repo.objects.blobs[line.sha].decode()
    parts: list[str] = path.split("/")[:-1]
    for part in target.split("/"):
        parts = parts[:-1] if part == ".." else [*parts, part]
    found = (
        None
        if target.startswith("/")
        else call.repo.objects.find(call.repo.branches.get(ref, ref), "/".join(parts))
    )
    if found and found.mode == MODES["file"]:
        return _file(call, "/".join(parts), found, ref)
    shown = Shapes(call.state, call.base).content(call.repo, path, "symlink", line, ref)
    return as_json({**shown, "target": target})


def _file(call: Call, path: str, line: Line, ref: str) -> Reply:
    data, shown = (
        call.repo.objects.blobs[line.sha],
        Shapes(call.state, call.base).content(call.repo, path, "file", line, ref),
    )
    if len(data) > INLINE:
        return as_json({**shown, "content": "", "encoding": "none"})
    return as_json({**shown, "content": base64.encodebytes(data).decode(), "encoding": "base64"})


def _kind(line: Line) -> str:
    """In a listing a submodule is called a file: https://docs.github.com/en/rest/repos/contents."""
    return {MODES["folder"]: "dir", MODES["symlink"]: "symlink"}.get(line.mode, "file")


def tree(call: Call, ref: str) -> Reply:
    require(call, "contents", "read")
    found = call.repo.objects.tree(call.repo.branches.get(ref, ref))
    if found is None:
        raise GitHubError(404, "Not Found")
    shapes = Shapes(call.state, call.base)
    lines = [shapes.line(call.repo, name, line) for name, line in found.items()]
    sha = call.repo.objects.commits.get(ref, ref)
    return as_json(
        {"sha": sha, "url": f"{shapes.url(call.repo)}/git/trees/{sha}", "tree": lines, "truncated": False}
    )


def blob(call: Call, sha: str) -> Reply:
    require(call, "contents", "read")
    data = call.repo.objects.blobs.get(sha)
    if data is None:
        raise GitHubError(404, "Not Found")
    return as_json(Shapes(call.state, call.base).blob(call.repo, sha, data))


def lfs_batch(call: Call) -> Reply:
    """Links to another origin, each with a header of its own and without the token."""
    _require_git(call)
    objects = []
    for wanted in call.json().get("objects", []):
        oid, data = str(wanted["oid"]), call.repo.large.get(wanted["oid"])
        if data is None:
            objects.append(
                {**wanted, "error": {"code": 404, "message": "Object does not exist on the server"}}
            )
            continue
        href = f"{call.state.url.replace('127.0.0.1', 'localhost')}/lfs/{call.repo.full_name}/{oid}"
        action = {"href": href, "header": {"X-Signed": _signature(oid)}, "expires_in": 3600}
        objects.append(
            {"oid": oid, "size": len(data), "authenticated": True, "actions": {"download": action}}
        )
    return as_json({"transfer": "basic", "objects": objects}, headers={"Content-Type": LFS})


def lfs_object(call: Call, oid: str) -> Reply:
    if call.headers.get("X-Signed") != _signature(oid) or "Authorization" in call.headers:
        raise GitHubError(403, "The link is signed, and takes no token.")
    return Reply(200, {"Content-Type": "application/octet-stream"}, call.repo.large[oid])


def _require_git(call: Call) -> None:
    """Git's own door: it takes the token as a password, and hides what it does not show."""
    kind, _, text = call.headers.get("Authorization", "").partition(" ")
    if kind == "Basic":
        password = base64.b64decode(text).decode().partition(":")[2]
        call.token = call.state.tokens.get(password)
        if call.token is None:
            raise GitHubError(401, "Credentials needed")
    if LEVELS[level(call, call.repo, "contents")] < LEVELS["read"]:
        raise GitHubError(404, "Not Found")


def _signature(oid: str) -> str:
    return hashlib.sha256(f"signed {oid}".encode()).hexdigest()


ROUTES: list[Endpoint] = [
    ("GET", "/contents/?{path:.*}", contents),
    ("GET", "/git/trees/{ref}", tree),
    ("GET", "/git/blobs/{sha}", blob),
]
GIT_ROUTES: list[Endpoint] = [("POST", "\\.git/info/lfs/objects/batch", lfs_batch)]
STORAGE_ROUTES: list[Endpoint] = [("GET", "/{oid}", lfs_object)]
