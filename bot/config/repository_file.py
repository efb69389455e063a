"""`merge-bot.yml`, by which those who own a repository opt out or in, and change what is safe to change.

It is a stranger's: it is read as texts, lists and mappings and nothing else, and what it may say is never wider than
what whoever runs the bot has allowed.
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError

from bot.config.kinds import Template
from bot.config.mistakes import found_in
from bot.config.models import Dtype, Publish, Table, Visibility
from bot.errors import InputError
from bot.request import Way

FILE = "merge-bot.yml"
LARGEST = 16_384  # bytes
BRACKETS = 100  # each level of them costs the parser more than the one before; nobody needs ten
PLAIN = "tag:yaml.org,2002:str"
STRICTNESS: tuple[Way, ...] = ("none", "structure", "tensors", "full")


class Own(Table):
    """What the file may say; None: it does not."""

    merge: bool | None = None
    destination: Template | None = None
    publish: Publish | None = None
    visibility: Visibility | None = None
    validation: Way | None = None
    thorough: bool | None = None
    dtype: Dtype | None = None

    def changes(self) -> dict[str, Any]:
        """What it sets of a repository's rules."""
        return self.model_dump(exclude={"merge"}, exclude_none=True)


def parse(data: bytes, *, where: str) -> Own:
    """What the file says. Raises InputError with the line and the key for what it cannot say."""
    if len(data) > LARGEST:
        raise _odd(where, f"is larger than {LARGEST // 1024} KiB")
    node = _composed(data, where=where)
    if node is None or node.value == "":
        return Own()
    if not isinstance(node, yaml.MappingNode):
        raise _odd(where, "is no list of `key: value`", line=node.start_mark.line + 1)
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not _is_plain(key) or not _is_plain(value):
            raise _odd(where, "takes one value behind a key, and no lists, mappings or tags", line=line)
        if key.value in values:
            raise _odd(where, f"has the key {key.value[:40]!r} twice", line=line)
        values[key.value], lines[key.value] = value.value, line
    try:
        return Own(**values)
    except ValidationError as error:
        first = found_in(error, Own)[0]
        raise _odd(
            where, f"is wrong: {first.sentence}", line=lines.get(first.key), advice=first.advice
        ) from None


def check(own: Own, repository: str, *, visibility: Visibility, validation: Way) -> None:
    """Raises InputError where the file asks for more than the rules of the repository allow."""
    owner = repository.partition("/")[0]
    if own.destination and own.destination.partition("/")[0] not in {"{owner}", owner}:
        raise _wider(repository, "destination", f"it has to stay with {owner}: {{owner}}/…")
    if own.visibility == "public" and visibility == "private":
        raise _wider(repository, "visibility", "results of this repository are private")
    if own.validation and STRICTNESS.index(own.validation) < STRICTNESS.index(validation):
        raise _wider(repository, "validation", f"it may be stricter than {validation}, not laxer")
    if own.thorough is False:
        raise _wider(repository, "thorough", "it may be true, which is stricter")


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == PLAIN


def _composed(data: bytes, *, where: str) -> Any:
    if data.count(b"[") + data.count(b"{") > BRACKETS:
        raise _odd(where, "is no list of `key: value`")
    try:
        return yaml.compose(data.decode("utf-8-sig"), Loader=yaml.BaseLoader)
    except UnicodeDecodeError:
        raise _odd(where, "is no text in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise _odd(where, "is no YAML", line=mark.line + 1 if mark else None) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise _odd(where, "is no YAML") from None


def _odd(where: str, what: str, *, line: int | None = None, advice: str = "") -> InputError:
    place = f"Line {line} of {FILE}" if line else FILE
    return InputError(
        f"{place} in {where} {what.rstrip('.')}.",
        advice=advice
        or f"It takes {', '.join(Own.model_fields)}; without the file, the bot's own rules hold.",
        code="bad-repository-file",
    )


def _wider(where: str, key: str, why: str) -> InputError:
    return InputError(
        f"{FILE} in {where} may not set `{key}` so: {why}.",
        advice=f"Change or leave out `{key}`, or ask whoever runs the bot.",
        code="repository-file-too-wide",
    )
