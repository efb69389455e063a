"""A page of ours in the user's browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path


def opened(page: Path) -> bool:
    """Whether a browser took it; on a machine without one, none does."""
    try:
        return webbrowser.open(page.as_uri())
    except webbrowser.Error:
        return False
