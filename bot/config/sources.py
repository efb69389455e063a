"""Where the configuration's values come from: a TOML file, and an environment that comes before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from bot.terms import VARIABLES

PREFIX, BETWEEN = "MERGE_BOT_", "__"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file (None: there is none) and an environment, which holds secrets and is kept out of the repr."""

    file: Path | None
    environ: Mapping[str, str] = field(repr=False)


class Environment(EnvSettingsSource):
    """The variables of an environment that is handed in, and not read."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        """The names of limits that every command reads stand for their keys here."""
        old = {variable(("limits", key)).lower(): self._environ.get(name) for key, name in VARIABLES.items()}
        given = {name.lower(): text for name, text in self._environ.items()}
        return {name: text for name, text in {**old, **given}.items() if text}


def sources(
    settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource
) -> tuple[PydanticBaseSettingsSource, ...]:
    """What pydantic-settings reads, the strongest first."""
    given = init_settings.init_kwargs if isinstance(init_settings, InitSettingsSource) else {}
    source = given.pop("source", None)
    if not isinstance(source, Source):
        return (init_settings,)
    read: list[PydanticBaseSettingsSource] = [init_settings, Environment(settings_cls, source.environ)]
    if source.file is not None:
        read.append(TomlConfigSettingsSource(settings_cls, source.file))
    return tuple(read)


def variable(path: Sequence[str | int]) -> str:
    """The variable of the environment that sets a key: `MERGE_BOT_SERVER__PORT`."""
    return PREFIX + BETWEEN.join(str(step) for step in path).upper()


def variables(path: Sequence[str | int]) -> tuple[str, ...]:
    """All the variables that set a key, the strongest first."""
    table, *key = path
    old = VARIABLES.get(str(key[0])) if table == "limits" and key else None
    return (variable(path), old) if old else (variable(path),)
