"""Exceptions → one sentence, one piece of advice and the exit code, as text on stderr or JSON on stdout."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from typing import Any

from bot.errors import InternalError, MergeBotError
from bot.provenance import Verification
from bot.records import Report
from bot.serial import as_dict
from bot.terminal import session
from bot.terminal.text import clean

INTERRUPTED = 130


def tell(error: BaseException, *, as_json: bool, verbosity: int) -> None:
    """Says once what went wrong."""
    if verbosity >= 2:
        traceback.print_exception(error, file=sys.stderr)
    facts = _facts(error)
    report = getattr(error, "report", None)  # a failed validation carries its proof
    if as_json and facts["code"] != "output-lost":
        with suppress(OSError):  # a stdout that takes nothing; stderr may
            print(session.document({"error": facts} | _proof(report)), flush=True)
            return
    _write(facts, report)


def exit_code(error: BaseException) -> int:
    """What the process ends with after this error."""
    return int(_facts(error)["exit_code"])


def _facts(error: BaseException) -> dict[str, Any]:
    if isinstance(error, KeyboardInterrupt):
        sentence, advice = (
            "Interrupted; nothing was left half-written.",
            "Run the same command again when you like.",
        )
        return {"code": "interrupted", "sentence": sentence, "advice": advice, "exit_code": INTERRUPTED}
    known = error if isinstance(error, MergeBotError) else _bug(error)
    sentence, advice = clean(known.sentence), clean(known.advice)
    return {"code": known.code, "sentence": sentence, "advice": advice, "exit_code": known.exit_code}


def _bug(error: BaseException) -> InternalError:
    return InternalError(
        f"merge-bot met a fault of its own ({type(error).__name__}: {error}).",
        advice="Run it again with -vv and report what it prints in the issue tracker of adapter-merge-bot.",
        code="internal",
    )


def _proof(report: object) -> dict[str, Any]:
    if isinstance(report, Report):
        return {"report": as_dict(report)}
    return {"verification": as_dict(report)} if isinstance(report, Verification) else {}


def _write(facts: dict[str, Any], report: object) -> None:
    if isinstance(report, Report):
        from bot.terminal import view

        view.show(view.report(report), stderr=True)
    if isinstance(report, Verification):
        from bot.terminal import verification, view

        view.show(*verification.verification(report), stderr=True)
    if facts["code"] == "interrupted":
        print(facts["sentence"], file=sys.stderr)
        return
    print(
        f"Error: {facts['sentence']} [{facts['code']}]",
        f"Advice: {facts['advice']}",
        sep="\n",
        file=sys.stderr,
    )
