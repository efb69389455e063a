"""What is shown while the work goes on, and how figures and foreign text read."""

import io
import json
import time

import pytest
from rich.console import Console

from bot.terminal import progress, session
from bot.terminal.text import clean, counted, duration, size, span


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
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
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


def test_bars_show_the_piece_and_its_bytes_and_keep_foreign_markup_as_text():
    screen = io.StringIO()
    bars = progress.Bars(Console(file=screen, force_terminal=True, width=100))
    bars.begin("fetch [red]x[/red]", total=2000)
    bars.advance(2000)
    bars.say("half [bold]way")
    bars.end()
    bars.close()
    assert "fetch [red]x[/red]" in screen.getvalue()
    assert "2.0/2.0 kB" in screen.getvalue()
    assert "half [bold]way" in screen.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_999, "1.0 MB"),
        (99_960, "100 kB"),
        (2.4e9, "2.4 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text


def test_spans_name_a_unit_once_if_they_can():
    assert span(1.1e9, 2.4e9) == "1.1/2.4 GB"
    assert span(900e6, 2.4e9) == "900 MB/2.4 GB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (6.2, "6 s"), (59.9, "1 min 0 s"), (125, "2 min 5 s"), (3840, "1 h 4 min")],
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


def _until(condition, *, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
