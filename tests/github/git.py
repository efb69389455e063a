"""Git's objects: blobs and trees by their real ids, and commits that are a tree and a parent."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

MODES = {"file": "100644", "folder": "040000", "symlink": "120000", "submodule": "160000"}
TYPES = {"040000": "tree", "160000": "commit"}


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Submodule:
    """Another repository's commit."""

    sha: str = "1" * 40


@dataclass(frozen=True)
class Line:
    """One line of a tree."""

    mode: str
    sha: str
    size: int | None = None


Content = bytes | str | Link | Submodule
Tree = dict[str, Line]


@dataclass
class Objects:
    """What a repository and all its forks share."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    trees: dict[str, Tree] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)  # commit → tree

    def commit(self, files: Mapping[str, Content], *, parent: str = "") -> str:
        tree = self._tree(files)
        sha = _sha("commit", f"tree {tree}\nparent {parent}\n{len(self.commits)} {time.time_ns()}".encode())
        self.commits[sha] = tree
        return sha

    def tree(self, ref: str) -> Tree | None:
        """By the id of a tree or of a commit."""
        return self.trees.get(self.commits.get(ref, ref))

    def find(self, ref: str, path: str) -> Line | None:
        """What lies at a path; links are not followed."""
        line: Line | None = Line(MODES["folder"], self.commits.get(ref, ref))
        for part in filter(None, path.split("/")):
            tree = self.trees.get(line.sha) if line and line.mode == MODES["folder"] else None
            line = (tree or {}).get(part)
        return line

    def _tree(self, files: Mapping[str, Content]) -> str:
        tree: Tree = {}
        below: dict[str, dict[str, Content]] = {}
        for path, content in files.items():
            name, _, rest = path.partition("/")
            if rest:
                below.setdefault(name, {})[rest] = content
            else:
                tree[name] = self._line(content)
        for name, inside in below.items():
            tree[name] = Line(MODES["folder"], self._tree(inside))
        listed = "\n".join(f"{line.mode} {name} {line.sha}" for name, line in sorted(tree.items()))
        sha = _sha("tree", listed.encode())
        self.trees[sha] = dict(sorted(tree.items()))
        return sha

    def _line(self, content: Content) -> Line:
        if isinstance(content, Submodule):
            return Line(MODES["submodule"], content.sha)
        kind = "symlink" if isinstance(content, Link) else "file"
        text = content.target if isinstance(content, Link) else content
        data = text.encode() if isinstance(text, str) else text
        sha = _sha("blob", data)
        self.blobs[sha] = data
        return Line(MODES[kind], sha, len(data))


def lfs_pointer(data: bytes) -> str:
    """What git holds of a file that is in large file storage."""
    oid = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n"


def _sha(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data).hexdigest()
