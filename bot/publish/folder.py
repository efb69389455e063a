"""Publishing to a folder: unfinished work lies in a hidden sibling, and only a complete result gets the final name.

`check` says early whether the destination may be used at all; `staging` holds the destination's lock while the
merge writes; `Staged.finish` renames. A crash at any moment leaves the old result, the new one, or an old one under
a hidden name that the next run puts back.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bot.errors import MergeError, RefusedError
from bot.publish import pictures
from bot.publish.disk import explained
from bot.publish.lock import locked
from bot.records import SCHEMA, Plan
from bot.serial import from_dict

State = Literal["free", "finished", "replaceable"]
PLAN_FILE = "merge_plan.json"
# What a result holds beside the shards and sidecars that its plan names.
OURS = frozenset(
    {
        PLAN_FILE,
        "merge_report.json",
        "merge_provenance.json",
        "merge_report.md",
        "merge_report.html",
        pictures.FOLDER,
        "README.md",
        "config.json",
        "generation_config.json",
        "adapter_config.original.json",
        "model.safetensors.index.json",
    }
)


def check(destination: Path, *, key: str) -> State:
    """What is there: nothing (`free`), the result of this very plan (`finished`), or an older one of ours.

    Raises RefusedError when it is anything else: what we did not write is never replaced. Raises MergeError when it
    cannot be looked at.
    """
    place = resolved(destination)
    with explained(place):
        if place.is_dir() and os.path.ismount(place):
            raise _mounted(place)
        names = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
        if not os.path.lexists(place) or (place.is_dir() and not names):
            return "free"
        plan = _plan(place)
        foreign = _foreign(names, plan) or _among_pictures(place / pictures.FOLDER) if plan else None
    if plan is None or foreign:
        raise _occupied(place, foreign)
    return "finished" if plan.key == key else "replaceable"


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A hidden folder to write into, and the name that it gets when it is complete."""

    folder: Path
    destination: Path
    key: str

    def finish(self) -> Path:
        """Give the folder its final name, in place of an older result of ours; the answer is the final path.

        Everything is on the disk before the rename, so that a power cut does not leave a name without content.
        Raises RefusedError when something foreign has appeared at the destination, MergeError when the disk declines.
        """
        state = check(self.destination, key=self.key)
        with explained(self.destination):
            _settle(self.folder)
            aside = _hidden(self.destination, self.key, "old")
            if state != "free":
                self.destination.rename(aside)
            self._take_the_name(aside)
            _sync(self.destination.parent)
            _remove(aside)
        return self.destination

    def _take_the_name(self, aside: Path) -> None:
        try:
            self.folder.rename(self.destination)
        except BaseException:
            if aside.exists() and not self.destination.exists():
                aside.rename(self.destination)
            raise


@contextmanager
def staging(destination: Path, *, key: str, needed: int | None = None) -> Iterator[Staged]:
    """A fresh hidden sibling of the destination, `.NAME.KEY8.partial`, removed unless `finish` was called.

    What a killed run has left behind is cleared away first. `needed` is how many bytes the result takes, for the
    advice when the disk is full. Raises MergeError (`destination-busy`) while another run works on the same
    destination, and when the disk is full or declines.
    """
    place = resolved(destination)
    with explained(place, needed=needed):
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place):
            _recover(place)
            folder = _hidden(place, key, "partial")
            folder.mkdir()
            try:
                yield Staged(folder=folder, destination=place, key=key)
            finally:
                _remove(folder)


def sweep(root: Path) -> None:
    """Clears away what killed runs have left in a folder of unfinished work; what a live run holds stays."""
    for path in [*root.glob(".*.partial")]:
        place = root / path.name.removeprefix(".").removesuffix(".partial").rpartition(".")[0]
        with suppress(MergeError), locked(place):  # busy: another run works there
            _remove(path)


def resolved(destination: Path) -> Path:
    """The folder that is meant, links followed: its siblings are on the same disk, which a rename needs."""
    return destination.expanduser().resolve()


def _plan(folder: Path) -> Plan | None:
    """The plan of a complete result of ours, else None."""
    try:
        plan = from_dict(Plan, json.loads((folder / PLAN_FILE).read_text("utf-8")))
        complete = bool(plan.shards) and all((folder / name).is_file() for name in plan.shards)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        StopIteration,
        RecursionError,
    ):  # some other JSON
        return None
    return plan if complete and plan.schema == SCHEMA else None


def _foreign(names: list[str], plan: Plan) -> str | None:
    """The first name that we did not write; desktop litter (.DS_Store) does not count."""
    ours = OURS | set(plan.shards) | {sidecar.name.partition("/")[0] for sidecar in plan.sidecars}
    return next((name for name in names if name not in ours and not name.startswith(".")), None)


def _among_pictures(folder: Path) -> str | None:
    """The first name there that is no picture of a report."""
    names = sorted(f"{folder.name}/{entry.name}" for entry in folder.iterdir()) if folder.is_dir() else []
    return next((n for n in names if n not in pictures.PATHS and not n.startswith(f"{folder.name}/.")), None)


def _occupied(place: Path, foreign: str | None) -> RefusedError:
    what = (
        f"holds {foreign}, which this bot did not write"
        if foreign
        else "is not a finished result of this bot"
    )
    return RefusedError(
        f"{place} exists and {what}.",
        advice="Choose another folder, or move that one away.",
        code="destination-exists",
    )


def _mounted(place: Path) -> RefusedError:
    return RefusedError(
        f"{place} is a mount point, and a finished result is put in place by renaming, which cannot replace one.",
        advice=f"Choose a folder inside it, such as {place / 'merged'}.",
        code="destination-mounted",
    )


def _hidden(place: Path, key: str, kind: str) -> Path:
    short = "".join(character for character in key if character.isalnum())[:8]
    return place.with_name(f".{place.name}.{short}.{kind}")


def _recover(place: Path) -> None:
    """Clear away what a killed run left; an old result that was just being replaced gets its name back."""
    leftovers = _leftovers(place)
    for old in leftovers["old"]:
        if not place.exists():
            old.rename(place)
        _remove(old)
    for partial in leftovers["partial"]:
        _remove(partial)
        if partial.exists():
            raise MergeError(
                f"{partial} was left by an interrupted run and cannot be removed.",
                advice="Delete it, or make it writable for this user.",
                code="destination-busy",
            )


def _leftovers(place: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {"old": [], "partial": []}
    for path in place.parent.iterdir():  # no glob: a folder's name may hold its special characters
        short, _, kind = path.name.removeprefix(f".{place.name}.").partition(".")
        if path.name.startswith(f".{place.name}.") and kind in found and short.isalnum() and len(short) <= 8:
            found[kind].append(path)
    return found


def _settle(folder: Path) -> None:
    """Permissions as the umask says, whatever temporary files were renamed into the folder, and all of it on disk."""
    mode = stat.S_IMODE(
        folder.stat().st_mode
    )  # mkdir applied the umask, which cannot be asked without changing it
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            if path.is_symlink():
                continue
            if path.stat().st_nlink == 1:  # a hard link is also somebody else's file
                path.chmod(mode & 0o666)
            _sync(path)
        Path(parent).chmod(mode)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    """Best effort: an error here would hide the one that led here, and the next run tries again."""
    shutil.rmtree(folder, ignore_errors=True)
