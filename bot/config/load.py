"""`merge-bot.toml` and the environment → `Config`, or what is wrong with them, with file, line and the nearest key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from bot.config import sense
from bot.config.files import with_files
from bot.config.lines import Lines
from bot.config.mistakes import Mistake, found_in, unknown
from bot.config.models import Config
from bot.config.sources import PREFIX, Source, variable, variables
from bot.errors import InputError

FILE = "merge-bot.toml"
CHECK = "`merge-bot config check` shows all that is wrong, `merge-bot config example` what is right."


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of a file: the configuration where it has no mistakes, and what else is to be said about it."""

    config: Config | None
    mistakes: tuple[Mistake, ...] = ()
    remarks: tuple[str, ...] = ()


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The configuration. Without a file (None) it is the environment's, over the defaults.

    Raises InputError naming file, line, key and the nearest right key of the first mistake.
    """
    checked = check(path, environ)
    if checked.config is not None and not checked.mistakes:
        return checked.config
    first, rest = checked.mistakes[0], len(checked.mistakes) - 1
    more = f" ({rest} more)" if rest else ""
    where = first.variable or ", ".join(str(part) for part in (path, first.place) if part)
    raise InputError(f"{where}: {first.sentence}{more}", advice=f"{first.advice} {CHECK}", code="bad-config")


def check(path: Path | None, environ: Mapping[str, str]) -> Checked:
    """All that is wrong with it. Raises InputError when the file cannot be read at all, or is no TOML."""
    lines = Lines.of(path)
    try:
        given: dict[str, Any] = {"source": Source(file=path, environ=environ)}
        config = Config(**given)
    except SettingsError as error:
        return Checked(config=None, mistakes=(_no_json(error, environ),))
    except ValidationError as error:
        found = found_in(error, Config)
        return Checked(config=None, mistakes=_placed(found, lines, environ))
    done, unread, remarks = with_files(config, path)
    wrong = [*_strays(environ), *unread, *sense.mistakes(done)]
    mistakes = _placed(wrong, lines, environ)
    return Checked(config=done, mistakes=mistakes, remarks=(*remarks, *sense.remarks(done)))


def _placed(mistakes: Iterable[Mistake], lines: Lines, environ: Mapping[str, str]) -> tuple[Mistake, ...]:
    """The mistakes with their places. What a variable says comes before what the file says."""
    done = []
    for mistake in mistakes:
        known = (name for path in _above(mistake.path) for name in variables(path) if name in environ)
        name = mistake.variable or next(known, "")
        above = (lines.of_key(path) for path in _above(mistake.path))
        line = None if name else next((line for line in above if line), None)
        done.append(replace(mistake, variable=name, line=line))
    return tuple(sorted(done, key=lambda m: m.line or 0))


def _above(path: Sequence[str | int]) -> list[Sequence[str | int]]:
    """The key, the table that it is in, and so on."""
    return [path[:length] for length in range(len(path), 0, -1)]


def _strays(environ: Mapping[str, str]) -> Iterator[Mistake]:
    """Variables of tables that there are not."""
    for name in sorted(environ):
        steps = name.removeprefix(PREFIX).lower().split("__")
        if name.startswith(PREFIX) and len(steps) > 1 and steps[0] not in Config.model_fields:
            yield replace(unknown(tuple(steps[:1]), Config), variable=name)


def _no_json(error: SettingsError, environ: Mapping[str, str]) -> Mistake:
    """A variable of a list or a table, which pydantic-settings wants as JSON."""
    table = next((name for name in Config.model_fields if f'"{name}"' in str(error)), "")
    names = [name for name in sorted(environ) if name.startswith(variable((table,)))]
    return Mistake(
        key=table,
        path=(table,),
        sentence=f"A list in a variable is JSON, and one of {', '.join(names)} is none.",
        advice='Write a list as ["one", "two"].',
        variable=names[0] if len(names) == 1 else "The environment",
    )
