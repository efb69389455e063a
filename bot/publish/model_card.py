"""The README.md of a merged model: plan and report → text. Reads nothing and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from bot import wording
from bot.publish import front_matter, usage
from bot.publish.escape import code, folder_name, joined, plain, row, without_paths
from bot.publish.marker import marker
from bot.publish.pictures import figures
from bot.records import Check, ConfigEdit, Patch, Pinned, Plan, Report
from bot.request import Destination

HUB = "https://huggingface.co"
MOST_LINES = 60  # of one table: a card is read by people, and the plan in merge_plan.json holds everything
LIMITS = (
    (
        "- Each changed weight was rounded once, to the precision named above, so the outputs differ by rounding from"
        " those of base and adapter side by side."
    ),
    "- What the model is good for was not measured here; see the adapter's and the base model's own cards.",
    "- Limits, biases and terms of use of the base model and of the adapter hold for this model too.",
)

LEVELS = {
    "none": "nothing",
    "structure": "files, configs and tokenizer",
    "tensors": "files, configs, tokenizer and every tensor",
    "full": "files, configs, tokenizer, every tensor, and answers",
}
ROUNDED_AS_PEFT = (
    "- Each changed weight was rounded as PEFT's `merge_and_unload` rounds it, which may be more than once."
)


def model_card(
    plan: Plan,
    *,
    report: Report | None,
    adapter_card: str | None,
    base_card: str | None,
    destination: Destination | None,
    endpoint: str = HUB,
    further_cards: Sequence[str | None] = (),
) -> str:
    """The card, front matter included.

    `adapter_card`, `further_cards` (the other adapters') and `base_card` are README texts as their authors wrote them.
    """
    found = front_matter.inherit(
        plan,
        adapter_card=adapter_card,
        further_cards=further_cards,
        base_card=base_card,
        endpoint=endpoint,
    )
    name = _name(plan, destination)
    sections = (
        [marker(plan.key), f"# {plain(name)}", "", *_what(plan, endpoint), ""],
        ["## How to use it", "", *_use(plan, destination), ""],
        ["## What it was merged from", "", *_sources(plan, endpoint), *_license(found), ""],
        ["## How it was merged", "", *_how(plan, report), ""],
        ["## How it was checked", "", *checks(report, plan=plan), *_report(report, plan), ""],
        [
            "## How to verify it, and how to go back",
            "",
            *_verify(plan, report, place=_place(destination)),
            "",
        ],
        ["## Limits", "", *_limits(plan)],
    )
    return front_matter.render(found.metadata) + joined(line for section in sections for line in section)


def _limits(plan: Plan) -> list[str]:
    return [ROUNDED_AS_PEFT if plan.parity == "peft" else LIMITS[0], *LIMITS[1:]]


def source(place: Pinned, *, endpoint: str = HUB) -> str:
    """A model or adapter as a link to its commit; of a local folder only that it is one."""
    if place.kind == "folder":
        return f"from a local folder ({code(place.commit)})"
    url = f"{endpoint}/{quote(place.location)}"
    within = f", folder {code(place.subfolder)}" if place.subfolder else ""
    return f"[{plain(place.location)}]({url}) at commit [{place.commit[:12]}]({url}/tree/{quote(place.commit)}){within}"


def merged_from(plan: Plan, *, endpoint: str = HUB) -> str:
    """`the adapter A`, or all of several with what becomes of them."""
    links = [source(place, endpoint=endpoint) for place in plan.adapters]
    if plan.recipe is None:
        return f"the adapter {links[0]}"
    told = [
        f"{link} ({weight})" if weight else link
        for link, weight in zip(links, wording.weights(plan), strict=True)
    ]
    return f"{len(links)} adapter{'s' * (len(links) > 1)}, {plain(wording.recipe(plan))}: {', '.join(told)},"


def checks(report: Report | None, *, plan: Plan) -> list[str]:
    """The lines of the table of checks, with a sentence that says what they amount to."""
    if report is None:
        return ["It was not checked: validation was switched off."]
    lines = [_verdict(report), "", row("Check", "Verdict", "Figure", "Meaning"), row(*["---"] * 4)]
    return lines + [_check(check, plan) for check in report.checks]


def _verdict(report: Report) -> str:
    done = {
        "passed": "All checks passed",
        "failed": "Some checks failed",
        "skipped": "The checks were skipped",
    }
    return f"{done[report.verdict]} (level {code(report.level)}: {LEVELS[report.level]})."


def _check(check: Check, plan: Plan) -> str:
    figure, detail = (without_paths(text, plan) for text in (check.figure, check.detail))
    return row(plain(check.name), check.verdict, plain(figure), plain(detail))


def _report(report: Report | None, plan: Plan) -> list[str]:
    """The report's pictures, and where the whole of it is."""
    if report is None:
        return []
    shown = figures(report.evidence, plan=plan)
    told = (
        "The whole report is in [merge_report.md](merge_report.md), its numbers are in `merge_report.json`."
    )
    return ["", *shown, *([""] if shown else []), told]


def _name(plan: Plan, destination: Destination | None) -> str:
    if destination is not None and destination.kind != "folder":
        return destination.location
    names = [folder_name(a) if a.kind == "folder" else a.location.rpartition("/")[2] for a in plan.adapters]
    return f"{' and '.join(names)}, merged"


def _what(plan: Plan, endpoint: str) -> list[str]:
    kind = plain(wording.peft_type(plan.peft_type))
    what = merged_from(plan, endpoint=endpoint).replace("the adapter", f"the {kind} adapter", 1)
    return [
        (
            f"This is a complete model: {what} merged into"
            f" {plain(wording.into(plan))} {source(plan.base, endpoint=endpoint)}."
            " It loads without PEFT and runs at the base model's speed."
        ),
        "",
        "This card was written by adapter-merge-bot, a program, and not by the authors of either model.",
    ]


def _use(plan: Plan, destination: Destination | None) -> list[str]:
    files = {sidecar.name for sidecar in plan.sidecars}
    place = _place(destination)
    return usage.examples(plan.model_class, task_type=plan.task_type, files=files, place=place)


def _place(destination: Destination | None) -> str:
    on_hub = destination is not None and destination.kind != "folder"
    return destination.location if destination is not None and on_hub else "./path/to/this/folder"


def _sources(plan: Plan, endpoint: str) -> list[str]:
    named_by = plain(without_paths(plan.base_found_by, plan))
    return [
        *(f"- Adapter: {link}" for link in _weighed(plan, endpoint)),
        f"- Base model: {source(plan.base, endpoint=endpoint)}, named by {named_by}",
    ]


def _weighed(plan: Plan, endpoint: str) -> list[str]:
    links = (source(place, endpoint=endpoint) for place in plan.adapters)
    return [
        f"{link}, {weight}" if weight else link
        for link, weight in zip(links, wording.weights(plan), strict=True)
    ]


def _license(found: front_matter.Inherited) -> list[str]:
    if found.conflict is None:
        return []
    *adapters, base = (code(name) for name in found.conflict if name)
    if not found.conflict[-1]:
        named = " and ".join((*adapters, base))
        return [
            "",
            f"**Licence:** the adapters' cards say {named}, so this card states none; all of them apply.",
        ]
    whose = "the adapter's card says" if len(adapters) == 1 else "the adapters' cards say"
    return [
        "",
        (
            f"**Licence:** {whose} {' and '.join(adapters)} and the base model's says {base}. The merged weights"
            " contain the base model, so this card states the base model's licence; the adapter's terms apply as well."
        ),
    ]


def _how(plan: Plan, report: Report | None) -> list[str]:
    lines = [
        *([f"- Several adapters: {plain(wording.recipe(plan))}"] if plan.recipe else []),
        f"- Precision: {plain(wording.precision(plan))}",
        f"- Tensors changed by the adapter: {len(plan.bindings):,}; added to those of the base: {len(plan.added):,}",
        f"- Files: {_listed(plan.shards)}",
    ]
    if report is not None and report.versions:
        lines.append("- Versions: " + ", ".join(f"{plain(k)} {plain(v)}" for k, v in report.versions.items()))
    lines += [f"- From the adapter's configuration, {plain(line)}" for line in wording.inert(plan.patches)]
    lines += [f"- Note: {plain(without_paths(note, plan))}" for note in plan.notes]
    repairs = [patch for patch in plan.patches if not patch.inert]
    lines += _changes("Changes to the adapter's configuration before merging:", repairs, plan)
    lines += _changes("Changes to the model's `config.json`:", plan.config_edits, plan)
    return lines


def _changes(heading: str, changes: Iterable[Patch | ConfigEdit], plan: Plan) -> list[str]:
    rows = [_change(entry, plan) for entry in changes]
    if not rows:
        return []
    head = ["", heading, "", row("Key", "Before", "After", "Reason"), row(*["---"] * 4)]
    left = len(rows) - MOST_LINES
    more = ["", f"{left} more are in `merge_plan.json`."] if left > 0 else []
    return head + rows[:MOST_LINES] + more


def _change(entry: Patch | ConfigEdit, plan: Plan) -> str:
    reason = plain(without_paths(entry.reason, plan))
    return row(code(entry.key), *(_value(text, plan) for text in wording.change(entry)), reason)


def _value(text: str, plan: Plan) -> str:
    words = text in {wording.NOT_SET, wording.REMOVED}  # ours: a string of the config stands in quotes
    return text if words else code(without_paths(text, plan))


def _listed(names: tuple[str, ...]) -> str:
    first = ", ".join(code(name) for name in names[:8])
    return first if len(names) <= 8 else f"{first} and {len(names) - 8} more"


def _verify(plan: Plan, report: Report | None, *, place: str) -> list[str]:
    check = (
        f"`merge-bot verify {place}` holds every file here, and every file that went in, against the digests in"
        " `merge_provenance.json`; with `--rebuild` it merges again and compares."
    )
    lines = [
        *([check] if report is not None else []),
        "Merging the same two commits again with the same versions gives the same bytes.",
        "An adapter cannot be taken out of merged weights: to go back, use the base model and the adapter named above.",
    ]
    digests = report.files if report is not None else {}
    weights = [name for name in plan.shards if name in digests]
    if not weights:
        return lines
    table = [row("File", "SHA-256"), row("---", "---")]
    table += [row(code(name), code(digests[name])) for name in weights[:MOST_LINES]]
    left = len(weights) - MOST_LINES
    more = ["", f"{left} more files have theirs in the repository's file list."] if left > 0 else []
    return [*lines, "", "The weights have these digests (`sha256sum *.safetensors`):", "", *table, *more]
