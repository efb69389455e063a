"""Flags that are sizes: the disk that a merge may take, and the rates that a plan counts on."""

from __future__ import annotations

import click

from bot.settings import amount
from bot.shard import Rates


def _amount(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = amount(text)
    if not found:
        raise click.BadParameter(f"{text!r} is no number of bytes, such as 12GB.")
    return found


def _rates(_: click.Context, __: click.Parameter, text: str) -> Rates:
    words = text.split("/")
    found = [amount(word.strip()) for word in words]
    if len(words) > 2 or not all(found):
        raise click.BadParameter(f"{text!r} is no rate, such as 100MB, or 100MB/20MB for down and up.")
    return Rates(down=found[0], up=found[-1])


scratch_limit = click.option(
    "--scratch-limit",
    metavar="SIZE",
    callback=_amount,
    help="Take no more disk than that, such as 12GB: a larger model goes to the Hub shard by shard. Without it, one"
    " that the disk is too small for does.",
)

rates = click.option(
    "--rates",
    metavar="DOWN[/UP]",
    default="100MB",
    show_default=True,
    callback=_rates,
    help="Count on lines of so many bytes a second, such as 300MB/50MB, in the time that a merge shard by shard takes.",
)
