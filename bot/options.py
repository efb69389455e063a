"""The flags of the commands, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bot.errors import InputError
from bot.plan import destination
from bot.records import Destination, MergeRequest

Command = Callable[..., None]
Option = Callable[[Command], Command]


def together(*parts: Option) -> Option:
    """Several flags as one decorator, in the order of --help."""

    def apply(command: Command) -> Command:
        for option in reversed(parts):
            command = option(command)
        return command

    return apply


adapter = click.argument("adapter")
job = together(
    click.option(
        "--base", metavar="BASE", help="Base model, a Hub id or a folder, in place of the adapter's own."
    ),
    click.option("--base-revision", metavar="REV", help="Branch, tag or commit of the base model."),
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Dtype of the result; auto keeps every tensor's own.",
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where the arithmetic runs.",
    ),
)
output = together(
    click.option("--json", is_flag=True, help="Print exactly one JSON document on stdout."),
    click.option("--dry-run", is_flag=True, help="Do everything but write."),
    click.option(
        "-v", "--verbose", count=True, help="Show warnings of libraries; -vv: their log, and tracebacks."
    ),
)


def to(*, required: bool) -> Option:
    """The destination and what it becomes."""
    return together(
        click.option("--to", metavar="DEST", required=required, help="Where the result goes."),
        click.option("--pr", is_flag=True, help="Open a Hub PR on DEST in place of a commit."),
        click.option("--public", is_flag=True, help="If DEST has to be created: make it public."),
    )


def validate(default: str, *, may_skip: bool = True) -> Option:
    """How much is checked."""
    ways = ["full", "tensors", "structure", *(["none"] if may_skip else [])]
    choice = click.option(
        "--validate",
        "validation",
        type=click.Choice(ways),
        default=default,
        show_default=True,
        help="How much of the result is checked.",
    )
    skip = click.option("--no-validate", is_flag=True, help="The same as --validate none.")
    return together(choice, skip) if may_skip else choice


thorough = click.option(
    "--thorough", is_flag=True, help="Check all numbers of changed tensors, not one row in 16."
)


def request(flags: dict[str, Any]) -> MergeRequest:
    """The flags as the pipeline wants them. `publish` names no adapter: the folder's own report does."""
    return MergeRequest(
        adapter=flags.get("adapter", ""),
        base=flags.get("base"),
        base_revision=flags.get("base_revision"),
        destination=_destination(flags),
        dtype=flags.get("dtype", "auto"),
        device=flags.get("device", "auto"),
        validation="none" if flags.get("no_validate") else flags.get("validation", "none"),
        thorough=flags.get("thorough", False),
        dry_run=flags["dry_run"],
    )


def _destination(flags: dict[str, Any]) -> Destination | None:
    if flags.get("out"):
        return _absolute(Destination(kind="folder", location=flags["out"]))
    if flags.get("to"):
        return _absolute(destination.parse(flags["to"], pr=flags["pr"], public=flags["public"]))
    if flags.get("pr") or flags.get("public"):
        raise click.UsageError("--pr and --public say something about --to, which is missing.")
    return None


def _absolute(to: Destination) -> Destination:
    if to.kind != "folder":
        return to
    try:
        return replace(to, location=str(Path(to.location).expanduser().resolve()))
    except RuntimeError as error:  # what pathlib raises for ~nobody
        advice = "Write the folder's full path."
        raise InputError(
            f"{to.location} names no home folder.", advice=advice, code="no-home-folder"
        ) from error
