"""Every way in which the bot stops, with its exit code, reason code, sentence and advice.

Nothing here prints: `bot.cli` renders an error once, for the terminal, JSON or a comment.
"""

from __future__ import annotations

from typing import ClassVar

from bot.secret_text import masked


class MergeBotError(Exception):
    """A reasoned stop: one sentence that says what is wrong, one piece of advice that says what to do; no token."""

    exit_code: ClassVar[int] = 70

    def __init__(self, sentence: str, *, advice: str, code: str) -> None:
        sentence = masked(sentence)
        super().__init__(sentence)
        self.sentence = sentence
        self.advice = masked(advice)
        self.code = code


class InputError(MergeBotError):
    """Wrong usage, or a file that is missing or cannot be parsed."""

    exit_code = 2


class RefusedError(MergeBotError):
    """The input can be read, and we decline to merge it."""

    exit_code = 3


class StoppedError(RefusedError):
    """Nobody wants the work any more: it was cancelled, or what it was for is gone. Nothing was published."""


class HostError(MergeBotError):
    """The host could not be reached or answered with a fault of its own: trying again later helps.

    `wait`: how many seconds the host asks us to wait, where it does.
    """

    exit_code = 4

    def __init__(self, sentence: str, *, advice: str, code: str, wait: float | None = None) -> None:
        super().__init__(sentence, advice=advice, code=code)
        self.wait = wait


class AccessError(MergeBotError):
    """No access: gated, private, or a token that is missing or too weak."""

    exit_code = 5


class MergeError(MergeBotError):
    """The merge itself failed on this machine (disk full, a file that vanished)."""

    exit_code = 6


class ValidationError(MergeBotError):
    """The merged model did not pass its checks: nothing was published, or it was taken back. `report` says so.

    `plan`: what was to be done, where there is one.
    """

    exit_code = 7

    def __init__(self, sentence: str, *, advice: str, code: str, report: object, plan: object = None) -> None:
        super().__init__(sentence, advice=advice, code=code)
        self.report, self.plan = report, plan


class InternalError(MergeBotError):
    """A broken promise of our own: a bug, to be reported."""

    exit_code = 70
