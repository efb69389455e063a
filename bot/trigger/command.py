"""The one grammar of `/merge …`, on GitHub and on the Hub: a comment's first line → `Command` or `Misread`. Pure.

Sentences are plain text: whoever shows them escapes them, for they quote strangers' words.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass
from typing import Any, Literal

from bot.request import Parity, QuantizedBase, Way
from bot.trigger.table import BASE, MEANT, MODEL, OPERATORS, OPTIONS, PATTERNS, WHOLE, Option

NAME = "/merge"
Verb = Literal["merge", "plan", "doctor", "status", "cancel", "retry", "help"]
WORDS: dict[str, Verb] = {
    "plan": "plan",
    "doctor": "doctor",
    "status": "status",
    "cancel": "cancel",
    "retry": "retry",
    "help": "help",
}
HELP = (  # a `/merge` alone is the host's to say
    ("/merge owner/name", "Merge this adapter of the Hub; @revision and :folder may stand behind it."),
    ("/merge plan", "Say what a merge would do."),
    ("/merge doctor", "Say what is wrong with the adapter's configuration."),
    ("/merge status", "Say how the job stands."),
    ("/merge cancel", "Stop the job that is going on."),
    ("/merge retry", "Do the last command once more."),
    ("/merge help", "Show this."),
)
ALONE = frozenset({"status", "cancel", "retry", "help"})
LONGEST = 2000  # characters of a line that somebody has meant
MOST_ADAPTERS = 16


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a comment asks for. References name a revision, so that none can be read as a folder of the machine."""

    verb: Verb = "merge"
    adapters: tuple[str, ...] = ()
    folder: str = ""
    head: str = ""
    base: str | None = None
    base_revision: str | None = None
    initial_adapter: str | None = None
    to: str = ""
    pr: bool = False
    public: bool = False
    dtype: str | None = None
    parity: Parity = "exact"
    quantized_base: QuantizedBase | None = None
    validate: Way | None = None
    stack: bool = False
    combination: str = ""
    weights: tuple[float, ...] = ()
    density: float | None = None
    majority_sign_method: str | None = None
    svd_rank: int | None = None
    seed: int | None = None
    dry_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Misread:
    """A line that is meant for us and cannot be read: what is wrong, and what to write."""

    sentence: str
    advice: str


class _Wrong(Exception):  # noqa: N818 - it never leaves this module
    def __init__(self, sentence: str, advice: str) -> None:
        super().__init__(sentence)
        self.misread = Misread(sentence=sentence, advice=advice)


def first_line(body: str) -> str | None:
    """The line that is meant for us; None for any other comment: quotes, code and talk begin otherwise."""
    line = body.partition("\n")[0].rstrip()
    return line if line == NAME or line.startswith((f"{NAME} ", f"{NAME}\t")) else None


def read(body: str) -> Command | Misread | None:
    """What the comment asks for, from its first line alone; None when it does not speak to us."""
    line = first_line(body)
    if line is None:
        return None
    try:
        return _command(_words(line))
    except _Wrong as wrong:
        return wrong.misread


def _words(line: str) -> list[str]:
    if len(line) > LONGEST or not line.replace("\t", " ").isprintable():
        raise _Wrong("This line is too long, or holds characters that are not shown.", "Write it by hand.")
    try:
        return shlex.split(line)[1:]
    except ValueError as error:
        raise _Wrong("A quotation mark is left open.", "Close it, or leave it out.") from error


def _command(words: list[str]) -> Command:
    verb: Verb = "merge"
    if words and words[0] in WORDS:
        verb = WORDS[words.pop(0)]
    if verb in ALONE and words:
        raise _Wrong(f"{NAME} {verb} takes nothing behind it.", f"Write {NAME} {verb}.")
    adapters: list[str] = []
    given: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            option, value = _option(word, words)
            if option.field in given:
                raise _Wrong(f"{option.flag} stands there twice.", "Say it once.")
            given[option.field] = value
        else:
            adapters.append(_adapter(word, first=not adapters and not given))
    return _checked(Command(verb=verb, adapters=tuple(adapters), **given))


def _option(word: str, words: list[str]) -> tuple[Option, Any]:
    """The option and its value, which is taken off the words behind it."""
    flag, equals, value = word.partition("=")
    option = next((o for o in OPTIONS if o.flag == flag), None)
    if option is None:
        raise _unknown(flag)
    if option.kind == "flag":
        if equals:
            raise _Wrong(f"{flag} takes no value.", f"Write {flag} alone.")
        return option, True
    if option.kind == "numbers":
        taken = [value] if equals else []
        while not equals and words and _is_numbers(words[0]):
            taken.append(words.pop(0))
        return option, _numbers(option, taken)
    if not equals:
        if not words or words[0].startswith("--"):
            raise _Wrong(f"{flag} needs a value: {_meant(option)}.", f"Write {flag} ….")
        value = words.pop(0)
    return option, _value(option, value)


def _unknown(flag: str) -> _Wrong:
    if flag in OPERATORS:
        return _Wrong(
            f"{flag} is for whoever runs the bot, and not for comments.",
            "Leave it out, or set it in the workflow.",
        )
    near = difflib.get_close_matches(flag, [o.flag for o in OPTIONS], n=1)
    advice = f"Did you mean {near[0]}?" if near else f"{NAME} help lists the options."
    return _Wrong(f"{_quoted(flag)} is no option.", advice)


def _value(option: Option, text: str) -> Any:
    if option.kind == "choice":
        if text not in option.choices:
            near = difflib.get_close_matches(text, option.choices, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"It takes {_meant(option)}."
            raise _Wrong(f"{option.flag} takes no {_quoted(text)}.", advice)
        return text
    if not PATTERNS[option.kind].fullmatch(text) or (option.kind != "number" and _is_odd(text)):
        raise _Wrong(f"{_quoted(text)} is not what {option.flag} takes.", f"It takes {_meant(option)}.")
    if option.kind == "model":
        return _on_hub(text, BASE)
    if option.kind == "number":
        return _number(option, text)
    return text


def _number(option: Option, text: str) -> int | float:
    if option.flag not in WHOLE:
        return float(text)
    if not text.isdecimal():
        raise _Wrong(f"{option.flag} takes a whole number.", f"Write {option.flag} 16.")
    return int(text)


def _is_numbers(word: str) -> bool:
    return all(PATTERNS["number"].fullmatch(part) for part in word.split(","))


def _numbers(option: Option, words: list[str]) -> tuple[float, ...]:
    if not words or not all(_is_numbers(word) for word in words):
        raise _Wrong(f"{option.flag} takes {MEANT['numbers']}.", f"Write {option.flag} 0.7,0.3.")
    return tuple(float(part) for word in words for part in word.split(","))


def _adapter(word: str, *, first: bool) -> str:
    if MODEL.fullmatch(word) and not _is_odd(word):
        return _on_hub(word, MODEL)
    if first:
        near = difflib.get_close_matches(word.lower(), WORDS, n=1)
        advice = f"Did you mean {NAME} {near[0]}?" if near else f"{NAME} help lists what there is."
        raise _Wrong(f"{_quoted(word)} is neither a command nor an adapter on the Hub.", advice)
    raise _Wrong(f"{_quoted(word)} is no adapter on the Hub.", "Write owner/name.")


def _is_odd(text: str) -> bool:
    """What the Hub never has in a name, and a path out of a folder has."""
    return ".." in text or "--" in text.partition("@")[0]


def _on_hub(text: str, pattern: re.Pattern[str]) -> str:
    """The reference with a revision: `owner/name` alone might be a folder where the bot runs."""
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return f"{found['name']}{found['revision'] or '@main'}{found['within'] or ''}"


def _checked(command: Command) -> Command:
    """The command, where its parts go together."""
    if len(command.adapters) > MOST_ADAPTERS:
        raise _Wrong(f"More than {MOST_ADAPTERS} adapters are too many.", "Merge them in several steps.")
    if command.folder and command.adapters:
        raise _Wrong("An adapter and --folder both say what to merge.", "Say one of them.")
    if command.stack and command.combination:
        raise _Wrong("--stack and --combination are two ways.", "Choose one of them.")
    if (command.pr or command.public) and not command.to:
        raise _Wrong("--pr and --public say something about --to, which is missing.", "Add --to owner/name.")
    if command.pr and command.public:
        raise _Wrong("A Hub PR goes to a repository that exists.", "Leave out --public, or --pr.")
    if command.verb == "doctor" and len(command.adapters) > 1:
        raise _Wrong("The doctor looks at one adapter at a time.", "Name one.")
    return command


def _meant(option: Option) -> str:
    return MEANT[option.kind] if not option.choices else ", ".join(option.choices)


def _quoted(text: str) -> str:
    """A stranger's word inside a sentence, cut short; whoever shows the sentence escapes it."""
    return f"'{text[:60]}{'…' if len(text) > 60 else ''}'"
