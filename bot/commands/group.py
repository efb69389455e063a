"""The group of all commands."""

from __future__ import annotations

import click


class InOrder(click.Group):
    """Lists the commands in the order of the stages, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)
