"""The report as people read it: text and pictures beside the weights, and one page that holds everything.

Made by the process that has the tokens, from our own records: no file of a stranger is opened here.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from bot.errors import InputError, RefusedError
from bot.publish.disk import explained
from bot.publish.model_card import HUB
from bot.publish.page import GENERATOR, as_html
from bot.publish.pictures import PATHS, drawn
from bot.publish.report_text import report_text
from bot.publish.result import PAGE_FILE, REPORT_FILE, TEXT_FILE, read_plan, read_report, write
from bot.publish.shareable import shareable
from bot.records import Plan, Report

NAMES = (REPORT_FILE, TEXT_FILE, PAGE_FILE, *PATHS)
HEAD = 4096  # bytes of a file in which a page of ours says that it is one


def files(plan: Plan, report: Report, *, page: bool = False, endpoint: str = HUB) -> dict[str, str | bytes]:
    """Text, pictures and the `page`, by their paths below the merged folder; without the folders of this machine."""
    shown = shareable(report, plan=plan)
    made = drawn(shown.evidence)
    pages = {PAGE_FILE: as_html(plan, shown, drawn=made, endpoint=endpoint)} if page else {}
    return {TEXT_FILE: report_text(plan, shown, endpoint=endpoint), **pages, **made}


def beside(folder: Path, plan: Plan, report: Report) -> None:
    """Writes text and pictures into a merged folder, and takes away pictures of an earlier report."""
    made = files(plan, report)
    for path in PATHS:
        if path not in made:
            (folder / path).unlink(missing_ok=True)
    for path, content in made.items():
        if isinstance(content, bytes):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        else:
            write(folder / path, content)


def as_page(folder: Path, *, out: Path | None = None) -> Path:
    """Writes the page of a merged folder's report, beside it or to `out`; the answer is where it lies.

    Raises InputError when the folder holds no report of ours, RefusedError when something else is in the page's place,
    MergeError when it cannot be written.
    """
    plan, report = read_plan(folder), read_report(folder)
    if report is None:
        raise InputError(
            f"{folder} holds no report: it was not checked.",
            advice=f"Run `merge-bot validate {folder} --adapter …` first.",
            code="no-report",
        )
    place = (out or folder / PAGE_FILE).expanduser().absolute()
    with explained(place):
        _check_free(place)
        shown = shareable(report, plan=plan)
        text = as_html(plan, shown, drawn=drawn(shown.evidence))
        _replace(place, text.encode())
    return place


def _check_free(place: Path) -> None:
    """What we did not write is never replaced."""
    try:
        with place.open("rb") as file:
            ours = GENERATOR.encode() in file.read(HEAD)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        ours = False
    if not ours:
        raise RefusedError(
            f"{place} exists and is not a report page of this bot.",
            advice="Choose another file with --out.",
            code="destination-exists",
        )


def _replace(place: Path, data: bytes) -> None:
    """A file of that name, whole or not at all; a link in its place is replaced, not followed."""
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(place)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
