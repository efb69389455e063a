"""What was asked for at a door → `MergeRequest`: the workflow's inputs, and a comment's command on top of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from bot.errors import InputError
from bot.plan import destination, questions
from bot.plan.recipe import STACK
from bot.publish.marker import keyed
from bot.request import Access, Destination, MergeRequest, Recipe
from bot.serial import as_dict
from bot.trigger.command import Command
from bot.trigger.inputs import Inputs

NO_DESTINATION = "Add `--to owner/name` to the command; a workflow has the input `to` for it."


def of_inputs(inputs: Inputs, *, adapter: str, revision: str = "") -> MergeRequest:
    """The job that the workflow's author has written down; its tokens are theirs. Raises InputError."""
    return MergeRequest(
        adapter=at_revision(adapter, revision),
        base=inputs.base or None,
        base_revision=inputs.base_revision or None,
        destination=_destination(inputs.to, pr=inputs.pr, public=inputs.public),
        dtype=inputs.dtype,
        device=inputs.device,
        quantized_base=inputs.quantized_base,
        validation=inputs.validate,
        dry_run=inputs.dry_run,
        allow_pickle=inputs.allow_pickle,
        prompts=questions.read_prompts(inputs.prompts) if inputs.prompts else (),
        text=questions.read_text(inputs.text) if inputs.text else "",
    )


def of_command(command: Command, known: MergeRequest, *, by: str, access: Access) -> MergeRequest:
    """What a comment asks for; what it leaves open is as in `known`. Raises InputError."""
    to = known.destination
    if command.to:
        to = _destination(command.to, pr=command.pr, public=command.public)
    return replace(
        known,
        further=command.adapters[1:],
        recipe=_recipe(command),
        base=command.base or known.base,
        base_revision=command.base_revision or (None if command.base else known.base_revision),
        initial_adapter=command.initial_adapter,
        destination=to,
        dtype=command.dtype or known.dtype,
        quantized_base=command.quantized_base or known.quantized_base,
        parity=command.parity,
        validation=command.validate or known.validation,
        dry_run=command.dry_run or known.dry_run,
        attended=False,
        requester_access=access,
        requested_by=by,
    )


def with_destination(request: MergeRequest) -> MergeRequest:
    """The request, which says where the result goes. Raises InputError when it does not."""
    if request.destination is None:
        raise InputError(
            "Nothing says where the merged model goes.", advice=NO_DESTINATION, code="no-destination"
        )
    return request


def job_key(request: MergeRequest, *, verb: str, place: str, head: str = "") -> str:
    """Whoever asks for the same at the same place and head shares one job. Who asked does not matter.

    32 hex digits for what was asked, and twelve of the head behind a hyphen.
    """
    options = as_dict(replace(request, requested_by=None, requester_access="unknown", requester_owns=()))
    text = json.dumps([verb, place, options], sort_keys=True, default=str)
    return keyed(hashlib.sha256(text.encode()).hexdigest()[:32], head)


def at_revision(adapter: str, revision: str) -> str:
    """`owner/name:folder` with `@revision`. Raises InputError where there is one already, or none can be."""
    if not revision:
        return adapter
    name, colon, folder = adapter.partition(":")
    if "@" in name or adapter.startswith((".", "/", "~")):
        raise InputError(
            f"{adapter} takes no revision beside it.",
            advice="Leave out adapter-revision, or write owner/name alone as the adapter.",
            code="bad-input",
        )
    return f"{name}@{revision}{colon}{folder}"


def _destination(text: str, *, pr: bool, public: bool) -> Destination | None:
    if not text:
        return None
    to = destination.parse(text, pr=pr, public=public)
    return to if to.kind != "folder" else replace(to, location=str(Path(to.location).expanduser().absolute()))


def _recipe(command: Command) -> Recipe | None:
    method = STACK if command.stack else command.combination
    if not method:
        given = (
            command.weights,
            command.density,
            command.majority_sign_method,
            command.svd_rank,
            command.seed,
        )
        if any(value not in (None, ()) for value in given):
            raise InputError(
                "--weights, --density, --majority-sign-method, --svd-rank and --seed belong to --combination.",
                advice="Add --combination, or leave them out.",
                code="usage",
            )
        return None
    return Recipe(
        method=method,
        weights=command.weights,
        density=command.density,
        majority_sign_method=command.majority_sign_method,
        svd_rank=command.svd_rank,
        seed=command.seed,
    )
