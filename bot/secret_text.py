"""Tokens in text: whatever is shown, logged or written down goes through here."""

from __future__ import annotations

import re
from typing import Any

MASK = "[hidden]"
# Of the Hub and of GitHub, by their own forms, and whoever stands before the @ of an address.
# https://huggingface.co/docs/hub/security-tokens,
# https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/
TOKEN = re.compile(
    r"\bhf_jwt_[\w.-]{20,}"
    r"|\b(?:hf|api_org)_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_\w{22,}|(?<=://)[^/\s@]+@"
)


def masked(text: str) -> str:
    """The text without the tokens in it."""
    return TOKEN.sub(MASK, text)


def masked_all(value: Any) -> Any:
    """The same for every string in dicts, lists and tuples, keys too."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {masked_all(key): masked_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked_all(item) for item in value)
    return value
