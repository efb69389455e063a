"""The title and the first comment of a Hub PR: automated, on whose request, what changed, how it was checked."""

from __future__ import annotations

from bot import wording
from bot.publish.escape import code, joined, plain, without_paths
from bot.publish.marker import marker
from bot.publish.model_card import HUB, checks, merged_from, source
from bot.records import Check, Plan, Report
from bot.request import Destination
from bot.wording import counted

LONGEST_TITLE = 200  # the Hub's limits are 3 and 200
MOST_CHANGES = 20


def title(plan: Plan) -> str:
    """The title of the Hub PR. A title is plain text for the Hub, so only its length and its line are minded."""
    base = plan.base.location.rpartition("/")[2] if plan.base.kind == "hub" else "its base model"
    name = "".join(character for character in base if character.isprintable() and character not in "@<>")
    what = "the adapter" if plan.recipe is None else counted(len(plan.adapters), "adapter")
    text = f"Merge {what} into {name}: a complete model that loads without PEFT"
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1] + "…"


def body(
    plan: Plan,
    *,
    report: Report | None,
    destination: Destination,
    requested_by: str | None,
    endpoint: str = HUB,
) -> str:
    """The first comment of the Hub PR, with the hidden marker. `requested_by` is a user name, shown without a ping."""
    lines = [marker(plan.key), _who(requested_by), "", "**What changes**", ""]
    lines += _changes(plan, destination, endpoint)
    lines += ["", "**How it was checked**", "", *checks(report, plan=plan), "", "**How to try it**", ""]
    lines += [
        (
            'Load this pull request with `revision="refs/pr/N"`, N being its number; the model card in it says how'
            " the model was made and how to verify it."
        ),
        "",
        "If this is not wanted, feel free to close it: nothing else happens then.",
    ]
    return joined(lines)


def withdrawal(check: Check) -> str:
    """The comment with which a publication is taken back that is not what was checked."""
    return (
        f"adapter-merge-bot has published this and found that it is not what was checked: {plain(check.detail)}"
        " Please do not use or merge it."
    )


def _who(requested_by: str | None) -> str:
    asker = f"on request of {plain(requested_by)}" if requested_by else "on request of its operator"
    return f"This pull request was opened automatically by adapter-merge-bot, {asker}."


def _who_merges(plan: Plan, endpoint: str) -> str:
    what = merged_from(plan, endpoint=endpoint)
    return f"The adapter{what.removeprefix('the adapter')} is" if plan.recipe is None else f"{what} are"


def _changes(plan: Plan, destination: Destination, endpoint: str) -> list[str]:
    base = source(plan.base, endpoint=endpoint)
    if plan.dequantized:
        base = f"{plain(wording.into(plan))} {base}"
    lines = [
        (
            f"- {_who_merges(plan, endpoint)} merged into"
            f" {base}; the result is added as a complete model."
            f" Tensors changed: {len(plan.bindings):,}, added: {len(plan.added):,}."
            f" Precision: {plain(wording.precision(plan))}."
        ),
    ]
    own = destination.location.casefold()
    if any(a.kind == "hub" and a.location.casefold() == own for a in plan.adapters):
        lines.append(
            "- The adapter's own files are deleted in the same commit, because transformers would load them on top of"
            " the merged weights and apply the adapter twice. They stay in the history, at the commit named above."
        )
    lines.append(
        "- `README.md` becomes the merged model's card. Its licence, language, datasets and tags are those of the"
        " adapter's and the base model's cards, as far as they name any."
    )
    repairs = [patch for patch in plan.patches if not patch.inert]
    for patch in repairs[:MOST_CHANGES]:
        reason = plain(without_paths(patch.reason, plan))
        lines.append(
            f"- {code(patch.key)} of the adapter's configuration was repaired before merging: {reason}"
        )
    if len(repairs) > MOST_CHANGES:
        lines.append(f"- {len(repairs) - MOST_CHANGES} more repairs are listed in the model card.")
    return lines + [
        f"- From the adapter's configuration, {plain(line)}." for line in wording.inert(plan.patches)
    ]
