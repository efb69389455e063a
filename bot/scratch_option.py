"""The flag that says how much disk a merge may take."""

from __future__ import annotations

import click

from bot.settings import amount


def _amount(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = amount(text)
    if not found:
        raise click.BadParameter(f"{text!r} is no number of bytes, such as 12GB.")
    return found


scratch_limit = click.option(
    "--scratch-limit",
    metavar="SIZE",
    callback=_amount,
    help="Take no more disk than that, such as 12GB: a larger model goes to the Hub shard by shard. Without it, one"
    " that the disk is too small for does.",
)
