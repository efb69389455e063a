"""The configuration in words: what is in force, for `config check`, and the reference of its keys, for the docs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bot.config.kinds import HF_JOBS
from bot.config.mistakes import table_of
from bot.config.models import Config
from bot.config.rules import KEYS, Rules
from bot.request import Destination


def in_force(config: Config) -> Iterator[tuple[str, str]]:
    """What the service does with it, in a few lines. No secret is in them."""
    server, hub, github = config.server, config.hub, config.github
    yield "listens on", f"{server.host}:{server.port}"
    yield "keeps its state in", str(server.state)
    yield "database", _database(config.database)
    yield "webhooks of the Hub", "taken" if hub.webhook_secret else "refused"
    yield "webhooks of GitHub", "taken" if github.webhook_secret else "refused"
    rules = [", ".join((*rule.owners, *rule.repositories)) for rule in config.watch if rule.enabled]
    yield "watches", "; ".join(rules) or "nothing"
    yield "auto merges at", ", ".join(_sizes(config)) or "local"
    yield "strangers see", "nothing" if config.pages.strangers == "closed" else "jobs with public results"


def of_rules(rules: Rules | None, *, example: Destination | None) -> Iterator[tuple[str, str]]:
    """What applies to a repository, key by key; `example` is where an adapter on `acme/base` would go."""
    if rules is None:
        yield "rule", "none: it is left alone"
        return
    yield "rule", f"{rules.rule} of [[watch]]" if rules.rule else "none: it has opted in"
    for key in KEYS:
        yield key, str(getattr(rules, key)).lower() if key != "destination" else rules.destination
    if example is not None:
        yield "an adapter on acme/base", f"goes to {example.location}"


def reference() -> str:
    """Every table and key as Markdown: what docs/config.md holds."""
    parts = [_table("At the top", Config, "", list(_plain(Config)))]
    for name, field in Config.model_fields.items():
        table = table_of(field)
        if table is not None:
            head = f"`[[{name}]]`" if str(field.annotation).startswith("tuple") else f"`[{name}]`"
            parts.append(_table(head, table, table.__doc__ or "", list(table.model_fields)))
    return "\n\n".join(parts)


def _table(head: str, table: type[BaseModel], says: str, keys: list[str]) -> str:
    rows = (_row(key, table.model_fields[key]) for key in keys)
    intro = f"{says}\n\n" if says else ""
    return f"### {head}\n\n{intro}| key | meaning | default |\n|---|---|---|\n" + "\n".join(rows)


def _row(key: str, field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        shown = "must be there"
    elif default is None or default == () or default is PydanticUndefined:
        shown = "–"
    else:
        shown = f"`{_toml(default)}`"
    return f"| `{key}` | {field.description or ''} | {shown} |"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, datetime):
        return value.isoformat()
    return json.dumps(str(value) if isinstance(value, PurePath) else value)


def _plain(model: type[BaseModel]) -> Iterator[str]:
    return (name for name, field in model.model_fields.items() if table_of(field) is None)


def _sizes(config: Config) -> Iterator[str]:
    for line in config.runners:
        name = "the Hub's machines" if line.runner == HF_JOBS else line.runner
        yield f"{name} up to {line.up_to_gb:g} GB" if line.up_to_gb else f"{name} above"


def _database(url: str) -> str:
    """The URL without the user and the password in it."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"
