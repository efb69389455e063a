"""The flags of the commands, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bot.errors import InputError
from bot.plan import destination, recipe
from bot.plan import questions as asked
from bot.request import Destination, MergeRequest, Recipe, Way

Command = Callable[..., Any]
Option = Callable[[Command], Command]


def together(*parts: Option) -> Option:
    """Several flags as one decorator, in the order of --help."""

    def apply(command: Command) -> Command:
        for option in reversed(parts):
            command = option(command)
        return command

    return apply


class Weighing(click.Command):
    """A command whose `--weights 0.7 0.3` may also be written so: click's own options take a fixed number of values."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Joins the numbers behind --weights with commas; they end at the first word that is none."""
        return super().parse_args(ctx, recipe.joined_weights(args))


def _weights(_: click.Context, __: click.Parameter, text: str | None) -> tuple[float, ...]:
    words = [word.strip() for word in text.split(",")] if text is not None else []
    odd = [word for word in words if not recipe.is_number(word)]
    if odd:
        raise click.BadParameter(f"{odd[0]!r} is no number.")
    return tuple(float(word) for word in words)


adapter = click.argument("adapter", metavar="ADAPTER...", nargs=-1, required=True)
several = together(
    click.option(
        "--stack", is_flag=True, help="Several adapters: merge one after the other, rounded once at the end."
    ),
    click.option(
        "--combination",
        type=click.Choice(recipe.COMBINATIONS),
        help="Several adapters: make one of them as PEFT's add_weighted_adapter does (LoRA only). cat is their exact"
        " weighted sum; linear sums A and B by themselves. Even plan fetches their weights then.",
    ),
    click.option(
        "--weights",
        metavar="W...",
        callback=_weights,
        help="One number for each adapter: 0.7 0.3, or 0.7,0.3.",
    ),
    click.option(
        "--density", type=float, metavar="SHARE", help="Of ties, dare and magnitude_prune: what is kept."
    ),
    click.option(
        "--majority-sign-method", type=click.Choice(recipe.SIGNS), help="Of ties: how signs are elected."
    ),
    click.option(
        "--svd-rank",
        type=click.IntRange(min=1),
        metavar="N",
        help="Of svd: the rank; by default the largest.",
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), metavar="N", help="Of dare: the random numbers', 0 by default."
    ),
)
allow_pickle = click.option(
    "--allow-pickle",
    is_flag=True,
    help="Read weights that are there only as pickle (.bin), as tensors and nothing else.",
)
job = together(
    click.option(
        "--base", metavar="BASE", help="Base model, a Hub id or a folder, in place of the adapter's own."
    ),
    click.option("--base-revision", metavar="REV", help="Branch, tag or commit of the base model."),
    click.option(
        "--quantized-base",
        type=click.Choice(["original", "dequantize"]),
        default="original",
        show_default=True,
        help="For a quantised base: merge into the model it was made from, or into its dequantised weights.",
    ),
    click.option(
        "--initial-adapter",
        metavar="ADAPTER",
        help="The adapter before its first step, where its start changed the base (PiSSA, CorDA, LoRA-GA).",
    ),
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
    click.option(
        "--parity",
        type=click.Choice(["exact", "peft"]),
        default="exact",
        show_default=True,
        help="exact rounds once; peft gives merge_and_unload's very bits.",
    ),
    click.option(
        "--way",
        type=click.Choice(["auto", "whole"]),
        default="auto",
        show_default=True,
        help="auto streams the base's tensors where that can be; whole has transformers load the whole model first.",
    ),
    allow_pickle,
)
as_json = click.option("--json", is_flag=True, help="Print exactly one JSON document on stdout.")
verbose = click.option(
    "-v", "--verbose", count=True, help="Show warnings of libraries; -vv: their log, and tracebacks."
)
output = together(as_json, click.option("--dry-run", is_flag=True, help="Do everything but write."), verbose)

page = together(
    click.option(
        "--out",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where the page goes, by default to merge_report.html in DIR.",
    ),
    click.option("--open", "show", is_flag=True, help="Open the page in a browser."),
    as_json,
    verbose,
)

doctor = together(
    click.argument("adapter"),
    click.option(
        "--base", metavar="BASE", help="Base model, a Hub id or a folder, to hold the adapter against."
    ),
    click.option("--fix", is_flag=True, help="Write the repaired config; the original is kept beside it."),
    click.option("--pr", is_flag=True, help="With --fix: propose the repair of a Hub adapter as a Hub PR."),
    as_json,
    verbose,
)

verify = together(
    click.argument("model"),
    click.option("--rebuild", is_flag=True, help="Merge again from the pinned commits, and compare bytes."),
    allow_pickle,
    as_json,
    verbose,
)


def to(*, required: bool) -> Option:
    """The destination and what it becomes."""
    return together(
        click.option("--to", metavar="DEST", required=required, help="Where the result goes."),
        click.option("--pr", is_flag=True, help="Open a Hub PR on DEST in place of a commit."),
        click.option("--public", is_flag=True, help="If DEST has to be created: make it public."),
    )


reload = click.option(
    "--reload",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Fetch and load the model once more from the Hub when it is published; auto does so up to 1 GB.",
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

questions = together(
    click.option(
        "--prompts",
        metavar="FILE",
        help="What the models are asked in the full check, and shown to go on from: one a line, or JSON lines with"
        ' "prompt" or "messages". They stand in the report. Without --validate, asks for full.',
    ),
    click.option("--text", metavar="FILE", help="Measure perplexity on this text; asks for --validate full."),
)


def request(flags: dict[str, Any]) -> MergeRequest:
    """The flags as the pipeline wants them. `publish` names no adapter: the folder's own report does."""
    adapters = flags.get("adapter") or ("",)
    return MergeRequest(
        adapter=adapters[0],
        further=tuple(adapters[1:]),
        recipe=_recipe(flags),
        base=flags.get("base"),
        base_revision=flags.get("base_revision"),
        initial_adapter=flags.get("initial_adapter"),
        destination=_destination(flags),
        dtype=flags.get("dtype", "auto"),
        device=flags.get("device", "auto"),
        quantized_base=flags.get("quantized_base", "original"),
        validation=_validation(flags),
        thorough=flags.get("thorough", False),
        parity=flags.get("parity", "exact"),
        dry_run=flags["dry_run"],
        allow_pickle=flags.get("allow_pickle", False),
        way=flags.get("way", "auto"),
        reload=flags.get("reload", "auto"),
        scratch_limit=flags.get("scratch_limit"),
        prompts=asked.read_prompts(flags["prompts"]) if flags.get("prompts") is not None else (),
        text=asked.read_text(flags["text"]) if flags.get("text") is not None else "",
    )


def _validation(flags: dict[str, Any]) -> Way:
    """How much is checked; questions for the models need the full check, and get it unless less was asked for."""
    way: Way = "none" if flags.get("no_validate") else flags.get("validation", "none")
    given = [f"--{name}" for name in ("prompts", "text") if flags.get(name) is not None]
    if not given or way == "full":
        return way
    source = click.get_current_context().get_parameter_source("validation")
    if flags.get("no_validate") or source is not ParameterSource.DEFAULT:
        raise click.UsageError(
            f"{given[0]} is for the full check: leave out --validate {way}, or ask for full."
        )
    return "full"


def _recipe(flags: dict[str, Any]) -> Recipe | None:
    """What the flags say about several adapters; None when they say nothing."""
    options = {
        key: flags.get(key) for key in ("weights", "density", "majority_sign_method", "svd_rank", "seed")
    }
    given = [key for key, value in options.items() if value not in (None, ())]
    method = flags.get("combination")
    if flags.get("stack") and method:
        raise click.UsageError(
            "--stack and --combination are two ways to merge several adapters: choose one."
        )
    if flags.get("stack"):
        method = recipe.STACK
    if method is None and given:
        flag = given[0].replace("_", "-")
        raise click.UsageError(f"--{flag} says something about --combination, which is missing.")
    return None if method is None else Recipe(method=method, **options)  # type: ignore[arg-type]


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
