"""The key of a merge: same adapter, base and options, same key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from bot.records import Pinned
from bot.request import MergeRequest
from bot.serial import as_dict


def job_key(
    adapter: Pinned,
    *,
    base: Pinned,
    request: MergeRequest,
    further: Sequence[Pinned] = (),
    initial: Pinned | None = None,
) -> str:
    """32 hex digits. Two local folders with the same content count as the same."""
    parts: list[Any] = [_identity(adapter), _identity(base), request.dtype]
    if initial is not None:
        parts.append(_identity(initial))
    if request.recipe is not None:
        parts += [[_identity(pinned) for pinned in further], as_dict(request.recipe)]
    if request.quantized_base != "original":  # the keys of earlier results stay as they are
        parts.append(request.quantized_base)
    if request.parity != "exact":
        parts.append(request.parity)
    if request.way != "auto":
        parts.append(["way", request.way])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _identity(pinned: Pinned) -> list[str]:
    place = pinned.location if pinned.kind == "hub" else ""
    return [place, pinned.commit, pinned.subfolder]
