"""The report as one HTML page that needs nothing else: no network, no script, pictures inside. Text in, text out.

Everything that is not a literal of this file goes through `_text`; what strangers wrote stays text.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from bot import wording
from bot.publish.escape import folder_name, without_paths
from bot.publish.model_card import HUB
from bot.publish.pictures import pictures
from bot.publish.report_text import (
    GREEDY,
    READING,
    continued,
    largest,
    measured_on,
    speed_cells,
    tensor_cells,
)
from bot.records import Check, Pinned, Plan, Report
from bot.wording import duration

GENERATOR = '<meta name="generator" content="adapter-merge-bot">'
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
MARKS = {"passed": "✓", "failed": "✗", "skipped": "–"}
MOST_FILES = 200
STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --line: #d1d9e0;
  --passed: #1a7f37; --failed: #d1242f; --skipped: #9a6700; --link: #0969da; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1; --line: #3d444d;
  --passed: #3fb950; --failed: #f85149; --skipped: #d29922; --link: #4493f8; } }
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); margin: 0 auto; max-width: 60rem; padding: 2rem 1rem 4rem;
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; } .faint, caption, figcaption { color: var(--faint); font-size: .875rem; }
a { color: var(--link); }
.verdict { display: inline-block; border: 1px solid currentColor; border-radius: 1rem; padding: .1rem .8rem;
  font-weight: 600; margin: .6rem 0; }
.passed { color: var(--passed); } .failed { color: var(--failed); } .skipped { color: var(--skipped); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem .35rem 0; text-align: left; vertical-align: top; }
td.number, .numbers th:not(:first-child) { text-align: right; }
td.name { white-space: nowrap; padding-right: 1.2rem; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: .8125rem/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; display: block; }
summary { cursor: pointer; color: var(--faint); }
""".strip()


def as_html(plan: Plan, report: Report, *, drawn: Mapping[str, bytes], endpoint: str = HUB) -> str:
    """The whole page. `drawn`: the pictures as PNG by their paths. Folders of this machine are not in it."""
    body = (
        _head(plan, report, endpoint),
        _section("Checks", _checks(report, plan)),
        _section("Pictures", _figures(report, plan, drawn)),
        _section("Changed tensors", _tensors(report)),
        _section("Continuations", _continuations(report)),
        _section("Speed and memory", _speed(report)),
        _section("Circumstances", _circumstances(plan, report)),
        _section("Files", _files(report)),
    )
    title = f"Merge report: {_text(' + '.join(_name(place) for place in plan.adapters))}"
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"{GENERATOR}<title>{title}</title>",
            f"<style>{STYLE}</style></head>",
            "<body>",
            *(part for part in body if part),
            "</body></html>\n",
        )
    )


def _text(value: object) -> str:
    """Anything as text of the page, on one line, without controls that turn the reading direction."""
    line = "".join(character if character.isprintable() else " " for character in str(value))
    return html.escape(line)


def _name(place: Pinned) -> str:
    return folder_name(place) if place.kind == "folder" else place.location


def _link(place: Pinned, endpoint: str) -> str:
    if place.kind == "folder":
        return f"{_text(_name(place))}, a local folder (<code>{_text(place.commit)}</code>)"
    url = html.escape(f"{endpoint}/{quote(place.location)}/tree/{quote(place.commit)}")
    within = f", folder {_text(place.subfolder)}" if place.subfolder else ""
    return f'<a href="{url}">{_text(place.location)}</a> at <code>{_text(place.commit[:12])}</code>{within}'


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{_text(heading)}</h2>\n{content}</section>" if content else ""


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "") -> str:
    """A table; the cells are HTML already, each with its `<td>`."""
    head = "".join(f'<th scope="col">{_text(heading)}</th>' for heading in headings)
    lines = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="wide {kind}"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table></div>\n'


def _cell(inside: str, kind: str = "") -> str:
    return f'<td class="{kind}">{inside}</td>' if kind else f"<td>{inside}</td>"


def _head(plan: Plan, report: Report, endpoint: str) -> str:
    verdicts = [_kind(check.verdict) for check in report.checks]
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in MARKS if kind in verdicts)
    adapters = "<br>".join(f"Adapter: {_link(place, endpoint)}" for place in plan.adapters)
    recipe = f"<br>Several adapters: {_text(wording.recipe(plan))}" if plan.recipe else ""
    return (
        f"<header><h1>Merge report</h1>\n<p>{adapters}{recipe}<br>Base model: {_link(plan.base, endpoint)}</p>\n"
        f'<p class="verdict {_kind(report.verdict)}">{MARKS[_kind(report.verdict)]} {_text(report.verdict)}'
        f"{f' (checks: {counts})' if counts else ''}</p></header>"
    )


def _kind(verdict: str) -> str:
    return verdict if verdict in MARKS else "failed"


def _checks(report: Report, plan: Plan) -> str:
    def cells(check: Check) -> Iterable[str]:
        kind = _kind(check.verdict)
        mark = f'<span class="{kind}" role="img" aria-label="{_text(check.verdict)}">{MARKS[kind]}</span>'
        yield _cell(f"{mark} {_text(check.name)}", "name")
        yield _cell(_text(without_paths(check.figure, plan)))
        yield _cell(_text(without_paths(check.detail, plan)))

    return _table(("Check", "Figure", "Meaning"), (cells(check) for check in report.checks))


def _figures(report: Report, plan: Plan, drawn: Mapping[str, bytes]) -> str:
    found = [picture for picture in pictures(report.evidence) if picture.path in drawn]
    lines = []
    for picture in found:
        data = base64.b64encode(drawn[picture.path]).decode()
        alt = _text(without_paths(picture.alt, plan))
        image = f'<img src="data:image/png;base64,{data}" alt="{alt}">'
        lines.append(f"<figure>{image}<figcaption>{alt}</figcaption></figure>\n")
    return "".join(lines)


def _tensors(report: Report) -> str:
    shown = largest(report.evidence)
    if not shown:
        return ""
    left = len(report.evidence.tensors) - len(shown)
    more = (
        f'<p class="faint">{left:,} more, with no larger errors, are in merge_report.json.</p>'
        if left
        else ""
    )
    rows = (
        (
            _cell(f"<code>{_text(tensor.name)}</code>"),
            *(_cell(_text(cell), "number") for cell in tensor_cells(tensor)),
        )
        for tensor in shown
    )
    head = ("Tensor", "‖delta‖ / ‖weight‖", "Median, ulp", "Worst, ulp", "Rows looked at")
    return f'<p class="faint">{_text(READING)}</p>\n{_table(head, rows, "numbers")}{more}'


def _continuations(report: Report) -> str:
    if not report.evidence.continuations:
        return ""
    rows = (
        (*(_cell(f"<code>{_text(text)}</code>") for text in texts), _cell(_text(told)))
        for *texts, told in continued(report.evidence)
    )
    head = ("Prompt", "Base", "Base + adapter", "Merged", "The last two")
    return f'<p class="faint">{_text(GREEDY)}</p>\n{_table(head, rows)}'


def _speed(report: Report) -> str:
    found = report.evidence.speed
    if found is None:
        return ""
    rows = (
        (_cell(_text(name)), *(_cell(_text(cell), "number") for cell in cells))
        for name, *cells in speed_cells(found)
    )
    table = _table(("", "Base + adapter", "Merged"), rows, "numbers")
    return f'<p class="faint">{_text(measured_on(found))}</p>\n{table}'


def _circumstances(plan: Plan, report: Report) -> str:
    lines = [f"Checked in {duration(report.seconds)} on {report.device} (level {report.level})"]
    lines += [f"Precision: {wording.precision(plan)}"]
    lines += [f"Isolation: {report.isolation}"] if report.isolation else []
    lines += [f"Versions: {', '.join(f'{name} {number}' for name, number in report.versions.items())}"]
    lines += [f"Note: {without_paths(note, plan)}" for note in report.notes]
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>\n"


def _files(report: Report) -> str:
    names = sorted(report.files)
    rows = (
        (_cell(f"<code>{_text(name)}</code>"), _cell(f"<code>{_text(report.files[name])}</code>"))
        for name in names[:MOST_FILES]
    )
    left = len(names) - MOST_FILES
    more = f'<p class="faint">{left:,} more are in merge_report.json.</p>' if left > 0 else ""
    table = _table(("File", "SHA-256"), rows)
    return f"<details><summary>{len(names):,} files with their digests</summary>{table}{more}</details>\n"
