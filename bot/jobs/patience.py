"""How long a fault of others is waited out: a host gets some tries, our own database is waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    wait_exponential,
)

from bot.errors import HostError
from bot.wording import duration

T = TypeVar("T")
TRIES = 6  # of something that the host is at fault for: two and a half minutes in all
WAITS = wait_exponential(multiplier=5, max=80)
SOON = wait_exponential(multiplier=0.5, max=10)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Asks again after a HostError; `tried` hears of each that came to nothing, `told` in a sentence why it waits."""

    wait: Any = WAITS
    tried: Callable[[RetryCallState], None]
    told: Callable[[str], None] = field(default=lambda _: None)

    def ask(self, ask: Callable[[], T]) -> T:
        """What it gives in the end. Raises the last HostError."""
        return Retrying(**self._again)(ask)

    async def ask_async(self, ask: Callable[[], Awaitable[T]]) -> T:
        """As `ask`."""

        async def asked() -> T:  # a lambda would not be seen to be a coroutine function
            return await ask()

        return await AsyncRetrying(**self._again)(asked)

    @property
    def _again(self) -> dict[str, Any]:
        again = {"retry": retry_if_exception_type(HostError), "stop": _enough, "wait": self.wait}
        return {**again, "after": self.tried, "before_sleep": self._waits, "reraise": True}

    def _waits(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, HostError) and state.next_action is not None:
            self.told(f"{error.sentence} Trying again in {duration(state.next_action.sleep)}.")


def is_ours(error: BaseException | None) -> bool:
    """Whether it is our own database that is away or full, or our lease that is not renewed: that is waited for."""
    return isinstance(error, HostError) and error.code.startswith(("database-", "lease-"))


def patient(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, begun again as long as it is our database that keeps it from its end: DBOS would give the job up."""
    again: dict[str, Any] = {"retry": retry_if_exception(is_ours), "wait": SOON, "reraise": True}

    @wraps(step)
    async def later(*given: Any) -> Any:
        return await AsyncRetrying(**again)(step, *given)

    @wraps(step)
    def now(*given: Any) -> Any:
        return Retrying(**again)(step, *given)

    return later if iscoroutinefunction(step) else now


def _enough(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return not is_ours(error) and state.attempt_number >= TRIES
