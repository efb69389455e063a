"""Records → what a person reads on the terminal. The same facts as `--json`, chosen and in words."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from io import TextIOWrapper

from rich import box
from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderResult
from rich.table import Table
from rich.text import Text

from bot import wording
from bot.plan.shardwise import seconds
from bot.records import Binding, Check, ConfigEdit, MergedModel, Patch, Pinned, Plan, Publication, Report
from bot.shard import Rates, Traffic
from bot.terminal.text import Wrapped, clean
from bot.wording import counted, duration, size

# Without a terminal there is no width to fit: wide enough that no name or sentence of ours is cut.
PIPED_WIDTH = 160
NARROW = 60  # cells that a table of checks takes at least
EXAMPLES = 2
_MARKS = {"passed": ("✓", "green"), "failed": ("✗", "bold red"), "skipped": ("–", "yellow")}
_METHODS = {"lora": "LoRA", "dora": "DoRA", "replace": "replaced", "copy": "copied"}


def show(*parts: ConsoleRenderable, stderr: bool = False) -> None:
    """Prints the parts, with an empty line between them."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a ✓ must not fail where the locale is not UTF-8
    console = Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH)
    with console.capture() as captured:
        for index, part in enumerate(parts):
            console.print(*([""] if index else []), part, sep="\n")
    # rich pads every cell to its column's width: nobody wants those spaces in a file
    print(*(row.rstrip() for row in captured.get().splitlines()), sep="\n", file=stream)


def plan(record: Plan, *, rates: Rates) -> ConsoleRenderable:
    """The whole plan: what is merged into what, what changes on the way, what it takes, and how long at these rates."""
    rows = _facts()
    kind = f"{wording.peft_type(record.peft_type)}, {record.task_type or 'no task type'}"
    _fact(rows, "Adapters" if record.further else "Adapter", *_adapters(record), kind)
    _fact(rows, "Base", *_pinned(record.base), f"named by {record.base_found_by}")
    files, precision = counted(len(record.shards), "file"), wording.precision(record)
    _fact(rows, "Model", f"{record.model_class}, {files}, precision {precision}")
    _fact(rows, "Changes", *_bindings(record.bindings))
    _fact(rows, "Adds", *(f"{a.name} {_shape(a.shape)} {a.dtype}: {a.reason}" for a in record.added))
    _fact(
        rows, "Patches", *_changes(p for p in record.patches if not p.inert), *wording.inert(record.patches)
    )
    _fact(rows, "Config", *_changes(record.config_edits))
    _fact(rows, "Files", *_sidecars(record))
    _fact(rows, "Needs", *_needs(record, rates))
    _fact(rows, "To", _destination(record))
    _fact(rows, "Notes", *record.notes)
    return rows


def summary(record: Plan) -> ConsoleRenderable:
    """The plan in a few lines: for the head of a result."""
    rows = _facts()
    told = zip(record.adapters, wording.weights(record), strict=True)
    lines = [f"{pinned}, {weight}" if weight else str(pinned) for pinned, weight in told]
    _fact(rows, "Adapters" if record.further else "Adapter", *lines, *_recipe(record))
    _fact(rows, "Base", f"{record.base}, named by {record.base_found_by}")
    _fact(rows, "Changes", *_bindings(record.bindings))
    repairs = (f"{p.key}: {p.reason}" for p in record.patches if not p.inert)
    _fact(rows, "Patches", *repairs, *wording.inert(record.patches))
    _fact(rows, "Notes", *record.notes)
    return rows


def merged(model: MergedModel) -> ConsoleRenderable:
    """What the merge did, and where it lies."""
    rows = _facts()
    counts = f"{counted(model.merged, 'tensor')} merged, {model.copied:,} copied, {model.added:,} added"
    _fact(rows, "Merged", counts, f"{size(model.total_bytes)} in {duration(model.seconds)} on {model.device}")
    _fact(rows, "Notes", *model.notes)
    _fact(rows, "In", model.folder)
    return rows


def report(record: Report) -> ConsoleRenderable:
    """The checks as a table, and the verdict in one line."""
    mark, style = _MARKS[record.verdict]
    line = f"{mark} Validation {record.verdict} ({record.level}) in {duration(record.seconds)} on {record.device}"
    told = [Text(clean(line), style=style)]
    if record.isolation:
        told.append(Text(clean(f"Isolation: {record.isolation}"), style="dim"))
    return Group(*([_Checks(record.checks)] if record.checks else []), *told)


def publication(record: Publication) -> ConsoleRenderable:
    """Where the result is."""
    rows = _facts()
    what = {"folder": "Folder", "repository": "Repository", "hub_pr": "Hub PR"}[record.destination.kind]
    number = f" #{record.number}" if record.number else ""
    _fact(rows, f"{what}{number}", record.url, *(["published before, nothing new"] if record.existed else []))
    _fact(rows, "Commit", *([record.commit] if record.commit else []))
    _fact(rows, "Checks", *(_told(check) for check in record.checks))
    return rows


class _Checks:
    """Checks as a table; where its columns would cut words, one below the other."""

    def __init__(self, checks: Iterable[Check]) -> None:
        self._checks = checks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < NARROW:
            yield self._listed()
            return
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in ("", "Check", "Figure", "Meaning"):
            table.add_column(heading, no_wrap=heading in ("", "Check"))
        for check in self._checks:
            table.add_row(*_check(check))
        yield table

    def _listed(self) -> Table:
        rows = Table(box=None, show_header=False, pad_edge=False)
        rows.add_column(no_wrap=True)
        rows.add_column()
        for check in self._checks:
            mark, style = _MARKS[check.verdict]
            words = ": ".join(word for word in (check.name, check.figure, check.detail) if word)
            rows.add_row(Text(mark, style=style), Wrapped(words))
        return rows


def line(text: str) -> ConsoleRenderable:
    """One line of our own."""
    return Text(clean(text))


def _facts() -> Table:
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column()
    return rows


def _fact(rows: Table, label: str, *lines: str) -> None:
    for index, each in enumerate(lines):
        rows.add_row(Text("" if index else label), Wrapped(each))


def _pinned(model: Pinned) -> Iterable[str]:
    asked = f" ({model.revision})" if model.revision else ""
    access = ", ".join(word for word, yes in (("private", model.private), ("gated", model.gated)) if yes)
    place = f"{model.location}:{model.subfolder}" if model.subfolder else model.location
    yield f"{place}{f', {access}' if access else ''}"
    yield f"{'commit' if model.kind == 'hub' else 'contents'} {model.commit}{asked}"


def _adapters(record: Plan) -> Iterable[str]:
    for pinned, weight in zip(record.adapters, wording.weights(record), strict=True):
        place, commit = _pinned(pinned)
        yield f"{place}, {weight}" if weight else place
        yield commit
    yield from _recipe(record)


def _recipe(record: Plan) -> list[str]:
    return [wording.recipe(record)] if record.recipe else []


def _bindings(bindings: tuple[Binding, ...]) -> Iterable[str]:
    by_method: dict[str, list[str]] = defaultdict(list)
    for binding in bindings:
        by_method[binding.method].append(binding.tensor)
    for method, names in by_method.items():
        rest = len(names) - EXAMPLES
        examples = ", ".join(names[:EXAMPLES]) + (f" and {rest:,} more" if rest > 0 else "")
        yield f"{counted(len(names), 'tensor')} by {_METHODS.get(method, method)}: {examples}"


def _sidecars(record: Plan) -> Iterable[str]:
    for origin in ("adapter", "base"):
        names = [sidecar.name for sidecar in record.sidecars if sidecar.origin == origin]
        if names:
            yield f"from the {origin}: {', '.join(names)}"


def _needs(record: Plan, rates: Rates) -> Iterable[str]:
    need = record.estimate
    yield f"{size(need.download_bytes)} to fetch, {size(need.output_bytes)} to write"
    yield f"{size(need.disk_bytes)} of free disk, {size(need.memory_bytes)} of memory"
    if record.traffic is not None:
        yield from _traffic(record.traffic, rates)


def _traffic(moved: Traffic, rates: Rates) -> Iterable[str]:
    if moved.obstacle:
        yield f"not shard by shard: {moved.obstacle}"
        return
    lines = (
        f"{size(rates.down)}/s each way"
        if rates.up == rates.down
        else f"{size(rates.down)}/s down, {size(rates.up)}/s up"
    )
    copied = f", {size(moved.copied_bytes)} copied by the Hub" if moved.copied_bytes else ""
    yield (
        f"shard by shard ({counted(moved.shards, 'shard')}): {size(moved.down_bytes)} down, {size(moved.up_bytes)} up"
        f"{copied}, with {size(moved.least_bytes)} of disk or more (--scratch-limit);"
        f" about {duration(seconds(moved, rates=rates))} at {lines}"
    )


def _destination(record: Plan) -> str:
    to = record.destination
    if to is None:
        return "nowhere yet (--to shows where)"
    if to.kind == "folder":
        return f"the folder {to.location}"
    if to.kind == "hub_pr":
        return f"a Hub PR on {to.location}"
    return f"the Hub repository {to.location}, {'public' if to.public else 'private if it is new'}"


def _changes(entries: Iterable[Patch | ConfigEdit]) -> Iterable[str]:
    for entry in entries:
        before, after = wording.change(entry)
        told = f"{before} {after}" if after == wording.REMOVED else f"{before} → {after}"
        yield f"{entry.key}: {told}: {entry.reason}"


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + " × ".join(str(n) for n in shape) + "]"


def _told(check: Check) -> str:
    figure = f"{check.figure}: " if check.figure else ""
    return f"{_MARKS[check.verdict][0]} {check.name}: {figure}{check.detail}"


def _check(check: Check) -> tuple[Text, Text, Wrapped, Wrapped]:
    mark, style = _MARKS[check.verdict]
    return Text(mark, style=style), Text(clean(check.name)), Wrapped(check.figure), Wrapped(check.detail)
