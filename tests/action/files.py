"""What a step tells the runner: lines in the GITHUB_* files, and commands on stdout.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NAMES = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY")
MODERN = re.compile(r"^\s*::([\w-]+)(?: ([^:]*))?::(.*)$")
#: The form from before: GitHub's runner still obeys it, wherever in a line it stands.
OLD = re.compile(r"##\[([\w-]+)(?: ([^\]]*))?\](.*)$")
ESCAPES = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}


@dataclass(frozen=True, kw_only=True)
class Command:
    """`::name key=value,…::text`"""

    name: str
    given: dict[str, str]
    text: str


def commands(log: str) -> Iterator[Command]:
    """The commands of a log, but those between `::stop-commands::` and its end."""
    stopped = None
    for line in log.splitlines():
        found = MODERN.match(line) or OLD.search(line)
        if not found:
            continue
        name, given, text = found[1].lower(), found[2] or "", _plain(found[3])
        if stopped is not None:
            stopped = None if name == stopped else stopped
            continue
        if name == "stop-commands":
            stopped = text.lower()
            continue
        pairs = (pair.partition("=") for pair in re.split("[,;]", given) if pair)
        yield Command(name=name, given={k.strip(): _plain(v) for k, _, v in pairs}, text=text)


def pairs(path: Path) -> dict[str, str]:
    """`name=value` and `name<<END … END`. Raises ValueError on any other line, as the runner does."""
    found: dict[str, str] = {}
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        equal, here = line.find("="), line.find("<<")
        if not line:
            continue
        if equal >= 0 and (here < 0 or equal < here):
            found[line[:equal]] = line[equal + 1 :]
        elif here >= 0:
            found[line[:here]] = "\n".join(_until(lines, line[here + 2 :]))
        else:
            raise ValueError(f"Invalid format '{line}'")
    return found


def _until(lines: Iterator[str], end: str) -> Iterator[str]:
    for line in lines:
        if line == end:
            return
        yield line
    raise ValueError(f"Matching delimiter not found '{end}'")


def _plain(text: str) -> str:
    for escape, sign in ESCAPES.items():
        text = text.replace(escape, sign)
    return text
