"""Writes the published JSON schemas anew: `make schema`."""

import json
from pathlib import Path

from bot.publish import schemas

FOLDER = Path(schemas.__file__).with_name("schema")


def main() -> None:
    for name in schemas.RECORDS:
        text = json.dumps(schemas.made(name), indent=2, ensure_ascii=False) + "\n"
        (FOLDER / f"{name.removesuffix('.json')}.schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
