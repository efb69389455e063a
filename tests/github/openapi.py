"""GitHub's own description of its API in front of the fake: Prism refuses what it does not allow, in either direction.

https://github.com/stoplightio/prism in `proxy` mode over @octokit/openapi, cut down to the paths that the fake has.
"""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .examples import needs_npm

PATHS = (
    "/user",
    "/app",
    "/app/installations/{installation_id}/access_tokens",
    *(
        f"/repos/{{owner}}/{{repo}}{tail}"
        for tail in (
            "",
            "/installation",
            "/collaborators/{username}/permission",
            "/pulls/{pull_number}",
            "/pulls/{pull_number}/files",
            "/pulls/comments/{comment_id}",
            "/pulls/comments/{comment_id}/reactions",
            "/pulls/comments/{comment_id}/reactions/{reaction_id}",
            "/issues/{issue_number}/comments",
            "/issues/{issue_number}/reactions",
            "/issues/{issue_number}/reactions/{reaction_id}",
            "/issues/comments/{comment_id}",
            "/issues/comments/{comment_id}/reactions",
            "/issues/comments/{comment_id}/reactions/{reaction_id}",
            "/commits/{ref}/check-runs",
            "/check-runs",
            "/check-runs/{check_run_id}",
            "/statuses/{sha}",
            "/contents/{path}",
            "/git/trees/{tree_sha}",
            "/git/blobs/{file_sha}",
        )
    ),
)
PATIENCE = 60.0  # seconds until Prism answers; it takes about three


@contextmanager
def prism(upstream: str, folder: Path) -> Iterator[str]:
    """Prism in front of `upstream`; yields its address. Skips where the packages are not installed."""
    cli = needs_npm("@stoplight/prism-cli") / "dist" / "index.js"
    source = needs_npm("@octokit/openapi") / "generated" / "api.github.com.json"
    port = _free_port()
    url, description = f"http://127.0.0.1:{port}", folder / "github.json"
    description.write_text(json.dumps(described(json.loads(source.read_text(encoding="utf-8")), url)))
    command = ["node", cli, "proxy", description, upstream, "--port", str(port), "--errors"]
    log = (folder / "prism.log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            _wait_for(url, process, folder / "prism.log")
            yield url
        finally:
            process.terminate()


def described(whole: dict[str, Any], url: str) -> dict[str, Any]:
    """The description of `PATHS` alone, with all that they refer to, for a server at `url`."""
    kept: dict[str, Any] = {"paths": {path: whole["paths"][path] for path in PATHS}}
    contents = "/repos/{owner}/{repo}/contents/"
    kept["paths"][f"{contents}{{folder}}/{{path}}"] = _below("folder", whole["paths"][f"{contents}{{path}}"])
    waiting, seen = _references(kept), set()
    while waiting:
        reference = waiting.pop()
        if reference in seen:
            continue
        seen.add(reference)
        *parts, name = reference.removeprefix("#/").split("/")
        source, place = whole, kept
        for part in parts:
            source, place = source[part], place.setdefault(part, {})
        place[name] = source[name]
        waiting |= _references(source[name])
    return {**kept, "openapi": whole["openapi"], "info": whole["info"], "servers": [{"url": url}]}


def _below(folder: str, item: dict[str, Any]) -> dict[str, Any]:
    """The same for a path with one folder more: OpenAPI knows no parameter that holds a slash, and GitHub has one."""
    more = {"name": folder, "in": "path", "required": True, "schema": {"type": "string"}}
    return {verb: {**one, "parameters": [*one["parameters"], more]} for verb, one in item.items()}


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(item) for item in value.values()))
    return set().union(*(_references(item) for item in value)) if isinstance(value, list) else set()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until something answers; a 404 is an answer."""
    end, port = time.monotonic() + PATIENCE, int(url.rsplit(":", 1)[1])
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"Prism did not start: {log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
