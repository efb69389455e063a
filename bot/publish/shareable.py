"""Records as strangers may read them: without the folders of this machine."""

from __future__ import annotations

from typing import Any, TypeVar

from bot.publish.escape import folder_name, without_paths
from bot.records import Plan, Report
from bot.secret_text import masked
from bot.serial import as_dict, from_dict

R = TypeVar("R", Plan, Report)


def shareable(record: R, *, plan: Plan) -> R:
    """The same plan or report for publishing on the Hub: a local folder keeps the last part of its path only."""
    names = {place.location: folder_name(place) for place in plan.sources if place.kind == "folder"}
    if plan.destination is not None and plan.destination.kind == "folder":
        names[plan.destination.location] = "folder"
    found: R = from_dict(type(record), _scrubbed(as_dict(record), names, plan))
    return found


def _scrubbed(value: Any, names: dict[str, str], plan: Plan) -> Any:
    if isinstance(value, dict):
        return {key: _scrubbed(item, names, plan) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(item, names, plan) for item in value]
    if isinstance(value, str):
        return names.get(value) or masked(without_paths(value, plan))
    return value
