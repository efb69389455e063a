"""merge_report.md: the report for people, with its pictures. Plan and report → text; reads nothing, writes nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bot.evidence import ChangedTensor, Evidence, Speed
from bot.publish.escape import code, joined, plain, row, without_paths
from bot.publish.model_card import HUB, checks, merged_from, source
from bot.publish.pictures import figures
from bot.records import Pinned, Plan, Report
from bot.wording import duration, into, size

MOST_TENSORS = 20
MOST_FILES = 60
WORD = re.compile(r"--[a-z-]+ [\w./@:-]+", re.ASCII)
READING = (
    "The size of the adapter's delta is told against that of the base's weight, both as the root of the sum of squares."
    " A unit in the last place (ulp) is the distance between two neighbouring numbers of the dtype on disk. One"
    " rounding takes at most half of it, arithmetic in float32 before it a little more; the checks say whether that is"
    " kept to."
)
GREEDY = (
    "How each model goes on from the same prompts, always by the most likely token. Where the last two part at a tie,"
    " two tokens were so close that rounding decides."
)
AGREEMENTS = {"same": "the same", "tie": "part at a tie", "other": "differ"}
SPEED = (
    "Both in float32, in one process, from the same prompt, always the most likely token, {tokens} of them,"
    " on {place}. Figures of one machine at one moment, and no check; the memory is the whole process's."
)


def report_text(plan: Plan, report: Report, *, endpoint: str = HUB) -> str:
    """The whole text, in Markdown. Folders of this machine are not in it."""
    shown = figures(report.evidence, plan=plan)
    sections = [
        ["# Merge report", "", *_what(plan, endpoint), ""],
        ["## Checks", "", *checks(report, plan=plan), ""],
        *([["## Pictures", "", *shown, ""]] if shown else []),
        *([["## Changed tensors", "", *_tensors(report.evidence), ""]] if report.evidence.tensors else []),
        *(
            [["## Continuations", "", *_continuations(report.evidence), ""]]
            if report.evidence.continuations
            else []
        ),
        *([["## Speed and memory", "", *_speed(report.evidence.speed), ""]] if report.evidence.speed else []),
        ["## Circumstances", "", *_circumstances(plan, report), ""],
        ["## Check it yourself", "", *_again(plan), "", *_files(report)],
    ]
    return joined(line for section in sections for line in section)


def largest(found: Evidence) -> Sequence[ChangedTensor]:
    """The changed tensors that are told one by one: those with the largest errors first."""
    return sorted(found.tensors, key=lambda tensor: (-_worst(tensor), tensor.name))[:MOST_TENSORS]


def tensor_cells(tensor: ChangedTensor) -> tuple[str, str, str, str]:
    """Norm, median and worst error, and the rows looked at, in words."""
    norm = "" if tensor.relative_norm is None else f"{tensor.relative_norm:.3g}"
    worst = "not finite" if tensor.worst_ulp is None else f"{tensor.worst_ulp:.3g}"
    return norm, f"{tensor.median_ulp:.2f}", worst, f"{tensor.rows:,} of {tensor.of_rows:,}"


def speed_cells(found: Speed) -> list[tuple[str, ...]]:
    """What was measured, of base + adapter, and of the merged model, in words."""
    both = (found.adapter, found.merged)
    rows: list[tuple[str, ...]] = [
        ("Tokens per second", *(f"{pace.tokens_per_second:.3g}" for pace in both)),
        ("Time to the first token", *(f"{1000 * pace.first_token_seconds:.3g} ms" for pace in both)),
    ]
    if all(pace.peak_bytes for pace in both):
        rows.append(("Peak memory", *(size(pace.peak_bytes or 0) for pace in both)))
    return rows


def measured_on(found: Speed) -> str:
    """What the figures were measured on, in a sentence."""
    counts = dict.fromkeys((f"{found.adapter.tokens:,}", f"{found.merged.tokens:,}"))
    return SPEED.format(place=found.place, tokens=" and ".join(counts))


def _worst(tensor: ChangedTensor) -> float:
    return float("inf") if tensor.worst_ulp is None else tensor.worst_ulp


def _what(plan: Plan, endpoint: str) -> list[str]:
    base = source(plan.base, endpoint=endpoint)
    merged = f"merging {merged_from(plan, endpoint=endpoint)} into {plain(into(plan))} {base}"
    return [f"What was checked of the model that came from {merged}."]


def _tensors(found: Evidence) -> list[str]:
    shown = largest(found)
    head = ("Tensor", "‖delta‖ / ‖weight‖", "Median error, ulp", "Worst error, ulp", "Rows looked at")
    lines = [READING, "", row(*head), row(*["---"] * len(head))]
    lines += [row(code(tensor.name), *tensor_cells(tensor)) for tensor in shown]
    left = len(found.tensors) - len(shown)
    return [
        *lines,
        *(["", f"{left:,} more, with no larger errors, are in `merge_report.json`."] if left else []),
    ]


def continued(found: Evidence) -> list[tuple[str, str, str, str, str]]:
    """How the models go on: prompt, base, base + adapter, merged, and how the last two agree. Strangers' text."""
    return [(c.prompt, c.base, c.adapter, c.merged, AGREEMENTS[c.agreement]) for c in found.continuations]


def _continuations(found: Evidence) -> list[str]:
    head = row("Prompt", "Base", "Base + adapter", "Merged", "The last two")
    lines = [row(*map(code, texts), told) for *texts, told in continued(found)]
    return [GREEDY, "", head, row(*["---"] * 5), *lines]


def _speed(found: Speed | None) -> list[str]:
    if found is None:
        return []
    lines = [row("", "Base + adapter", "Merged"), row("---", "---", "---")]
    return [plain(measured_on(found)), "", *lines, *(row(*cells) for cells in speed_cells(found))]


def _circumstances(plan: Plan, report: Report) -> list[str]:
    lines = [f"- Checked in {duration(report.seconds)} on {plain(report.device)}"]
    if report.isolation:
        lines.append(f"- Isolation: {plain(report.isolation)}")
    if report.versions:
        lines.append("- Versions: " + ", ".join(f"{plain(k)} {plain(v)}" for k, v in report.versions.items()))
    return lines + [f"- Note: {plain(without_paths(note, plan))}" for note in report.notes]


def _again(plan: Plan) -> list[str]:
    """The command that makes this report anew, where it is short and names nothing that a shell would read twice."""
    words = [f"--adapter {place.location}@{place.commit}{_within(place)}" for place in plan.adapters]
    words += [f"--base {plan.base.location}", f"--base-revision {plan.base.commit}"]
    words += [f"--dtype {plan.dtype}"] if plan.dtype != "auto" else []
    words += [f"--parity {plan.parity}"] if plan.parity != "exact" else []
    words += ["--quantized-base dequantize"] if plan.dequantized else []
    plain_words = all(WORD.fullmatch(word) for word in words)
    known = plain_words and all(place.kind == "hub" for place in plan.sources)
    if not known or plan.recipe is not None or plan.initial is not None:
        return [
            "`merge-bot validate DIR` with the adapter, the base and the options of the merge makes it anew."
        ]
    return [
        "With this model in the folder DIR, on another machine if you like:",
        "",
        "```sh",
        " \\\n  ".join(["merge-bot validate DIR", *words]),
        "```",
    ]


def _within(place: Pinned) -> str:
    return f":{place.subfolder}" if place.subfolder else ""


def _files(report: Report) -> list[str]:
    names = sorted(report.files)
    lines = [row("File", "SHA-256"), row("---", "---")]
    lines += [row(code(name), code(report.files[name])) for name in names[:MOST_FILES]]
    left = len(names) - MOST_FILES
    return [*lines, *(["", f"{left:,} more are in `merge_report.json`."] if left > 0 else [])]
