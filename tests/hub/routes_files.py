"""Downloads: `resolve` answers small files itself and sends LFS files on to the storage, at another origin."""

import mimetypes
from urllib.parse import quote

from .access import require_download
from .errors import HubError
from .exchange import Call, Endpoint, FileRange, Reply, with_range
from .records import FileEntry


def _content(call: Call, entry: FileEntry, path: str) -> Reply:
    name = path.rsplit("/", maxsplit=1)[-1]
    reply = Reply(200, {}, FileRange(call.state.store.blobs.path(entry.sha256), 0, entry.size))
    reply.headers["Content-Type"] = mimetypes.guess_type(name)[0] or "application/octet-stream"
    reply.headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(name)}; filename=\"file\";"
    reply.headers["ETag"] = f'"{entry.etag}"'
    return reply


def resolve(call: Call, rev: str, path: str) -> Reply:
    require_download(call.account, call.repo)
    store = call.state.store
    commit = store.resolve(call.repo, rev)
    entry = store.entry(commit, path)
    if entry.lfs:
        return _to_storage(call, entry, path, commit.oid)
    reply = _content(call, entry, path)
    reply.headers["X-Repo-Commit"] = commit.oid
    return with_range(reply, call.headers.get("Range"))


def _to_storage(call: Call, entry: FileEntry, path: str, commit: str) -> Reply:
    """The link carries a signature instead of a token, and the file's name for the sake of the request log."""
    link = call.state.signed(f"/blobs/{entry.sha256}/{quote(path)}", commit=commit, size=entry.size)
    headers = {"Location": call.state.cdn_url + link, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    headers |= {
        "X-Linked-Etag": f'"{entry.etag}"',
        "X-Linked-Size": str(entry.size),
        "ETag": f'"{entry.oid}"',
    }
    if xet_hash := call.state.store.xet_hash(entry):
        token = f"{call.state.url}/api/{call.repo.type}s/{call.repo.id}/xet-read-token/{commit}"
        headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
    return Reply(302, headers, b"Found. Redirecting")


def blob(call: Call, sha256: str, path: str) -> Reply:
    call.state.check_signature(call)
    size = call.state.store.blobs.size(sha256)
    if size is None:
        raise HubError(404, "No such blob")
    reply = _content(call, FileEntry.large(sha256, size), path)
    reply.headers["X-Repo-Commit"] = call.param("commit")
    return with_range(reply, call.headers.get("Range"))


ROUTES: list[Endpoint] = [("GET|HEAD", "/resolve/{rev}/{path:path}", resolve)]
STORAGE_ROUTES: list[Endpoint] = [("GET|HEAD", "/blobs/{sha256}/{path:path}", blob)]
