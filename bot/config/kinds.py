"""The kinds of values in the configuration that have a grammar of their own: names, globs, templates, amounts."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from bot.plan.destination import is_repo_id

LOCAL, POOL, HF_JOBS, AUTO = "local", "pool:", "hf-jobs", "auto"
FIELDS = ("owner", "name", "subfolder", "base", "base_name")
SAMPLE = {"owner": "acme", "name": "lora", "subfolder": "", "base": "acme/base", "base_name": "base"}
UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]b)?", re.ASCII | re.IGNORECASE)
GLOB = re.compile(r"!?[\w\-.*?\[\]]+/[\w\-.*?\[\]]+", re.ASCII)
NAME = re.compile(r"[\w\-.]{1,96}", re.ASCII)
NAME_GLOB = re.compile(r"[\w\-.*?\[\]]{1,96}", re.ASCII)
NO_SUBFOLDER = re.compile(r"[-_.]?\{subfolder\}")
URL = re.compile(r"https?://[^\s/]+[^\s]*[^\s/]")
QUEUE = re.compile(r"[a-z0-9][a-z0-9\-]{0,62}")


def glob(text: str) -> str:
    """`owner/name` with `*`, `?` and `[…]`, and with `!` before it what is left out."""
    if not GLOB.fullmatch(text):
        raise ValueError(
            f"{text!r} matches no repository: it takes owner/name, in which * and ? stand for the rest"
        )
    return text


def owner(text: str) -> str:
    """A user or an organisation of the Hub."""
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no user or organisation of the Hub; globs such as acme-*/* belong to `repositories`"
        )
    return text


def user_glob(text: str) -> str:
    """Names of users, with `*` and `?`."""
    if not NAME_GLOB.fullmatch(text):
        raise ValueError(f"{text!r} matches no user of the Hub")
    return text


def queue(text: str) -> str:
    """The name of a queue that workers on other machines take merges from."""
    if not QUEUE.fullmatch(text):
        raise ValueError(f"{text!r} is no name of a queue: it takes small letters, digits and dashes")
    return text


def url(text: str) -> str:
    """An address of the web."""
    if not URL.fullmatch(text):
        raise ValueError(f"{text!r} is no address: it takes https://…, without a slash at its end")
    return text


def runner(text: str) -> str:
    """`auto`, `local`, `hf-jobs` or `pool:QUEUE`."""
    if text.startswith(POOL):
        queue(text.removeprefix(POOL))
    elif text not in {AUTO, LOCAL, HF_JOBS}:
        raise ValueError(f"{text!r} is no runner: it takes {AUTO}, {LOCAL}, {HF_JOBS} or pool:QUEUE")
    return text


def template(text: str) -> str:
    """A repository on the Hub, in which `FIELDS` in braces are replaced."""
    try:
        names = [name for _, name, *_ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{text!r} is no template: {error}") from error
    for name in names:
        if name not in FIELDS:
            raise ValueError(f"{text!r} has the field {{{name}}}: it takes {', '.join(FIELDS)}")
    if not is_repo_id(made := filled(text, SAMPLE)):
        raise ValueError(f"{text!r} makes {made!r}, and a repository of the Hub is owner/name")
    return text


def filled(text: str, values: dict[str, str]) -> str:
    """The template with its fields replaced, and nothing else: braces in values stay as they are.

    Where there is no subfolder, the dash before it goes, too.
    """
    text = text if values["subfolder"] else NO_SUBFOLDER.sub("", text)
    parts = string.Formatter().parse(text)
    return "".join(literal + (values[name] if name else "") for literal, name, *_ in parts)


def amount(value: Any) -> Any:
    """A number of bytes, also as `500GB`; `off` is None."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "off":
        return None
    found = AMOUNT.fullmatch(value.strip())
    if not found:
        raise ValueError(f"{value!r} is no number of bytes: it takes 500GB, 20000000 or off")
    return int(float(found[1]) * UNITS[(found[2] or "").lower()])


def off(value: Any) -> Any:
    """`off` is None."""
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


def _kind(check: Callable[[str], str]) -> AfterValidator:
    return AfterValidator(check)


Glob = Annotated[str, _kind(glob)]
Owner = Annotated[str, _kind(owner)]
UserGlob = Annotated[str, _kind(user_glob)]
Queue = Annotated[str, _kind(queue)]
Url = Annotated[str, _kind(url)]
Runner = Annotated[str, _kind(runner)]
Template = Annotated[str, _kind(template)]
Bytes = Annotated[int | None, BeforeValidator(amount)]
Count = Annotated[int | None, BeforeValidator(off)]
