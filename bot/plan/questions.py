"""What the user wants the models asked: the content of `--prompts FILE` and `--text FILE`, and no other file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bot.errors import InputError
from bot.request import Prompt, Turn

LARGEST = {"--prompts": 2**20, "--text": 4 * 2**20}  # bytes
JSON_LINES = (".jsonl", ".ndjson")
ADVICE = (
    'Write one prompt a line, or JSON lines: {"prompt": "…"}, or for a chat'
    ' {"messages": [{"role": "user", "content": "…"}]}.'
)
WHOLE = "Name a file of plain text in UTF-8."


def read_prompts(file: str) -> tuple[Prompt, ...]:
    """The prompts, in their order. Raises InputError for a file that holds none, or something else.

    JSON lines are known by their suffix, or by the brace that the first line starts with.
    """
    lines = [*enumerate(_read(file, flag="--prompts").split("\n"), 1)]  # JSON may hold other ends of lines
    lines = [(number, line.strip()) for number, line in lines if line.strip()]
    in_json = file.lower().endswith(JSON_LINES) or lines[0][1].startswith("{")
    if not in_json:
        return tuple(Prompt(text=line) for _, line in lines)
    return tuple(_prompt(line, where=f"Line {number} of {file}") for number, line in lines)


def read_text(file: str) -> str:
    """The text. Raises InputError for a file that holds none."""
    return _read(file, flag="--text")


def _read(file: str, *, flag: str) -> str:
    """What is in the file, at least one word of it."""
    most = LARGEST[flag]
    advice = ADVICE if flag == "--prompts" else WHOLE
    try:
        with Path(file).expanduser().open("rb") as stream:
            data = stream.read(most + 1)
    except (OSError, RuntimeError, ValueError) as error:  # pathlib's for ~nobody, and for a NUL in the name
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{file} cannot be read: {why}.", advice=advice, code="file-unreadable") from error
    if len(data) > most:
        raise InputError(
            f"{file} is larger than {most // 2**20} MiB, which is the most that {flag} takes.",
            advice="Name a smaller one: only the beginning of it would be asked anyway.",
            code="file-too-large",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8.", advice=advice, code="not-text") from error
    if "\0" in text:
        raise InputError(f"{file} is no text: there are NUL bytes in it.", advice=advice, code="not-text")
    if not text.strip():
        raise InputError(f"{file} is empty.", advice=advice, code="file-empty")
    return text


def _prompt(line: str, *, where: str) -> Prompt:
    try:
        data: Any = json.loads(line)
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair is JSON, and no text
    except (ValueError, RecursionError) as error:
        raise _odd(where, "is no JSON") from error
    if not isinstance(data, dict):
        raise _odd(where, "is no JSON object")
    text, messages = data.get("prompt"), data.get("messages")
    if isinstance(text, str) and text.strip() and messages is None:
        return Prompt(text=text)
    if text is not None or not isinstance(messages, list) or not messages:
        raise _odd(where, 'holds neither a "prompt" that is a text nor "messages" that are a list')
    return Prompt(chat=tuple(_turn(message, where=where) for message in messages))


def _turn(message: Any, *, where: str) -> Turn:
    found = message if isinstance(message, dict) else {}
    role, content = found.get("role"), found.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise _odd(where, 'has a message without "role" and "content" as texts')
    return Turn(role=role, content=content)


def _odd(where: str, what: str) -> InputError:
    return InputError(f"{where} {what}.", advice=ADVICE, code="not-prompts")
