"""What every answer at a door stands on: settings, inputs, the code host, and the run that answers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bot.doors.control import Control
from bot.doors.pace import Pace
from bot.doors.rights import Rights
from bot.forge import Forge, HubTalk, PullRequest, Talk
from bot.job import Job, Outcome
from bot.progress import Progress
from bot.publish.host import GITHUB, HUB, Host
from bot.settings import Settings
from bot.trigger.inputs import Inputs

if TYPE_CHECKING:
    from bot.config.models import Config
    from bot.doors.task import Task


@dataclass(frozen=True, kw_only=True)
class Footing(ABC):
    """One run that answers one event, on either host.

    `run` is its name and `url` its page; adapters and reports lie below `folder`. `pace` is how often a comment is
    edited; `patience` is how many seconds a cancellation waits, `stale` after how many without a sign a run counts as
    dead, `insist` for how many the last look and the last word are tried while the host stumbles, `space` how many
    bytes may be fetched. `settle` is what becomes of tasks (None: they are done at once, one after the other), which
    no thread has asked for where there is no GitHub PR or discussion; and `jobs` where a command hears of them (None:
    from their comments).
    """

    settings: Settings
    progress: Progress
    run: str
    url: str
    folder: Path
    pace: Pace = field(default_factory=Pace)
    patience: float = 120.0
    stale: float = 900.0  # fifteen edits that did not come, and thrice as long as the last word is tried
    insist: float = 300.0
    space: int | None = None
    settle: Callable[[Sequence[Task], PullRequest | None, Footing], Answer] | None = None
    jobs: Control | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    @property
    @abstractmethod
    def talk(self) -> Talk:
        """Where it was asked for, and is answered."""

    @property
    @abstractmethod
    def host(self) -> Host:
        """What things are called there."""

    def now(self) -> int:
        """Seconds since 1970."""
        return int(self.clock())


@dataclass(frozen=True, kw_only=True)
class Ground(Footing):
    """The same, on GitHub; what a command leaves open is as in `inputs`, what it may do with our tokens in `rights`."""

    inputs: Inputs
    rights: Rights = field(default_factory=Rights)
    connect: Callable[[], Forge] = field(repr=False)

    @cached_property
    def forge(self) -> Forge:
        """The repository on GitHub, connected to when it is first used: not every event needs it."""
        return self.connect()

    @property
    def talk(self) -> Talk:
        return self.forge

    @property
    def host(self) -> Host:
        return GITHUB


@dataclass(frozen=True, kw_only=True)
class HubGround(Footing):
    """The same, on the Hub: an event of `repository`, which `connect` opens the discussions of."""

    config: Config
    repository: str
    connect: Callable[[], HubTalk] = field(repr=False)

    @cached_property
    def talk(self) -> HubTalk:
        return self.connect()

    @property
    def host(self) -> Host:
        return HUB


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of an event: jobs with their outcomes, and what there is to say beside them, such as a permission."""

    results: tuple[tuple[Job, Outcome], ...] = ()
    notes: tuple[str, ...] = field(default=())
