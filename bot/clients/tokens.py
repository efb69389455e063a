"""The token that `hf auth login` has stored on this machine."""

from __future__ import annotations

from huggingface_hub import get_token


def stored_token() -> str | None:
    """The stored token, None when there is none."""
    return get_token()
