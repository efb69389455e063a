"""The key of a merge: same adapter, base and options, same key."""

from __future__ import annotations

import hashlib
import json

from bot.records import MergeRequest, Pinned


def job_key(adapter: Pinned, *, base: Pinned, request: MergeRequest) -> str:
    """32 hex digits. Two local folders with the same content count as the same."""
    parts = [_identity(adapter), _identity(base), request.dtype]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _identity(pinned: Pinned) -> list[str]:
    place = pinned.location if pinned.kind == "hub" else ""
    return [place, pinned.commit, pinned.subfolder]
