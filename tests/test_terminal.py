"""What is shown while the work goes on, and how figures and foreign text read."""

import io
import json
import time

import pytest
from rich.console import Console

from bot.records import Check, Pinned, Report
from bot.terminal import progress, session, view
from bot.terminal.text import clean, wrap
from bot.wording import counted, duration, size, span


@pytest.fixture
def lines():
    stream = io.StringIO()
    shown = progress.Lines(stream, every=0.02)
    yield shown, stream
    shown.close()


def test_a_piece_has_a_first_line_lines_in_between_and_a_last_one(lines):
    shown, stream = lines
    shown.begin("merge", total=2_400_000_000)
    shown.advance(1_100_000_000)
    _until(lambda: "%" in stream.getvalue())
    shown.end()
    first, *between, last = stream.getvalue().splitlines()
    assert first == "merge: started, 2.4 GB"
    assert between[-1].startswith("merge: 45% 1.1/2.4 GB ")
    assert between[-1].endswith(" left")
    assert last.startswith("merge: done, 1.1 GB in ")


def test_a_piece_that_hangs_is_not_silent(lines):
    shown, stream = lines
    shown.begin("loading the model", total=0)
    _until(lambda: "loading the model: still working, " in stream.getvalue())


def test_no_line_comes_after_the_end(lines):
    shown, stream = lines
    shown.begin("merge", total=10)
    shown.end()
    told = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == told


def test_a_new_piece_ends_the_one_before(lines):
    shown, stream = lines
    shown.begin("fetch", total=0)
    shown.begin("merge", total=0)
    assert [line.split(" in ")[0] for line in stream.getvalue().splitlines()] == [
        "fetch: started",
        "fetch: done",
        "merge: started",
    ]


def test_a_reader_who_left_does_not_stop_the_work():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    shown = progress.Lines(Closed())
    shown.begin("merge", total=1)
    shown.end()


@pytest.fixture
def bars():
    screen = io.StringIO()
    shown = progress.Bars(Console(file=screen, force_terminal=True, width=100))
    yield shown, screen
    shown.close()


def test_what_was_there_already_is_cached(lines, bars):
    for shown, stream in (lines, bars):
        shown.begin("fetch", total=10)
        shown.end()
        assert stream.getvalue().splitlines()[-1].endswith("fetch: cached")


def test_bars_show_the_piece_and_its_bytes_and_keep_foreign_markup_as_text(bars):
    shown, screen = bars
    shown.begin("fetch [red]x[/red]", total=2000)
    shown.advance(1000)
    _until(lambda: "50% 1.0/2.0 kB" in screen.getvalue())
    shown.say("half [bold]way")
    shown.advance(1000)
    shown.end()
    assert "fetch [red]x[/red]: done, 2.0 kB in " in screen.getvalue()
    assert "half [bold]way" in screen.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_bar_stays_on_one_line(width):
    shown = progress.Bars(Console(file=io.StringIO(), force_terminal=True, width=width))
    shown.begin("Fetching meta-llama/Llama-3.1-70B-Instruct", total=141 * 10**9)
    shown.advance(60 * 10**9)
    screen = io.StringIO()
    Console(file=screen, width=width).print(shown._bar.get_renderable())
    shown.close()
    assert [("Fetching" in line, "42%" in line) for line in screen.getvalue().splitlines()] == [(True, True)]


def test_a_piece_of_unknown_length_has_no_bar_and_no_bytes(bars):
    shown, screen = bars
    shown.begin("thinking", total=0)
    time.sleep(0.2)
    shown.end()
    assert "thinking: done in 0.2 s" in screen.getvalue()
    assert "/" not in screen.getvalue()
    assert "━" not in screen.getvalue()


def test_what_is_left_of_bars_stands_in_the_order_in_which_it_happened(bars):
    shown, screen = bars
    shown.say("planning")
    shown.begin("fetch", total=10)
    shown.end()
    shown.say("looking")
    shown.begin("merge", total=0)
    shown.end()
    left = screen.getvalue()
    assert left.index("planning") < left.index("✓ fetch") < left.index("looking") < left.index("✓ merge")


def test_a_piece_that_was_stopped_is_not_done(bars):
    shown, screen = bars
    shown.begin("upload", total=2000)
    shown.advance(500)
    shown.close()
    assert "✗ upload: stopped at 500 B/2.0 kB after " in screen.getvalue()
    assert "done" not in screen.getvalue()


def test_lines_break_at_spaces_and_long_names_at_their_dots():
    text = "Worst: model.layers.2.self_attn.k_proj.weight."
    assert list(wrap(text, 100)) == [text]
    assert list(wrap(text, 40)) == ["Worst:", "model.layers.2.self_attn.k_proj.weight."]
    assert list(wrap(text, 24)) == ["Worst: model.layers.2.", "self_attn.k_proj.weight."]
    assert list(wrap("x" * 25, 10)) == ["x" * 10, "x" * 10, "x" * 5]
    assert all(len(line) <= 7 for line in wrap(text, 7))
    assert list(wrap("", 10)) == [""]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100])
def test_names_in_a_table_are_not_cut_anywhere(width):
    detail = "Every changed tensor is right. Worst: model.layers.2.self_attn.k_proj.weight."
    check = Check(name="changed", verdict="passed", figure="21 of 21; median 0.40 ulp", detail=detail)
    screen = io.StringIO()
    Console(file=screen, width=width).print(view.report(_report(check)))
    words = screen.getvalue().split()
    for part in ("model.", "layers.", "self_attn.", "k_proj.", "weight."):
        assert any(part in word for word in words), screen.getvalue()
    assert {"Every", "changed", "tensor", "median"} <= set(words)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_999, "1.0 MB"),
        (99_960, "100 kB"),
        (2.4e9, "2.4 GB"),
        (5e15, "5,000 TB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text


def test_spans_name_a_unit_once_if_they_can():
    assert span(1.1e9, 2.4e9) == "1.1/2.4 GB"
    assert span(900e6, 2.4e9) == "900 MB/2.4 GB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.042, "42 ms"),
        (0.42, "0.4 s"),
        (6.2, "6 s"),
        (59.9, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3840, "1 h 4 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_counts():
    assert counted(1, "tensor") == "1 tensor"
    assert counted(1204, "tensor") == "1,204 tensors"


def test_a_strangers_text_cannot_steer_the_terminal():
    assert clean("a\x1b[2Jb\nc\x9bd") == "a\N{REPLACEMENT CHARACTER}[2Jb c\N{REPLACEMENT CHARACTER}d"


def test_documents_are_strict_json_in_ascii():
    text = session.document({"nan": float("nan"), "arrow": "→", "odd": "\udc80"})
    assert text.isascii()
    assert json.loads(text, parse_constant=pytest.fail) == {"nan": "NaN", "arrow": "→", "odd": "\udc80"}


def _report(*checks):
    place = Pinned(kind="folder", location="/x", commit="sha256:0")
    return Report(
        verdict="passed",
        level="full",
        plan_key="k",
        adapter=place,
        base=place,
        checks=checks,
        files={},
        versions={},
        device="cpu",
        seconds=1.0,
    )


def _until(condition, *, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
