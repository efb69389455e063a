"""Writes the example and the table of keys in docs/config.md anew: `python -m tests.config.reference`."""

import re
from importlib import resources
from pathlib import Path

from bot.config import words

DOCS = Path(__file__).parents[2] / "docs" / "config.md"


def example() -> str:
    return resources.files("bot.config").joinpath("example.toml").read_text(encoding="utf-8")


def written(text: str) -> str:
    """The page with what the code says now."""
    shown = f"```toml\n{example()}```\n"
    text = re.sub(r"```toml\n.*?```\n", lambda _: shown, text, count=1, flags=re.DOTALL)
    keys = f"## Reference\n\n{words.reference()}\n\nThe tables"
    return re.sub(r"## Reference\n.*?\n\nThe tables", lambda _: keys, text, count=1, flags=re.DOTALL)


if __name__ == "__main__":
    DOCS.write_text(written(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
