"""What a job says in its log, and what is heard of it, also when lines are missing or are not its own."""

import io
import json

from bot.doors.work import failed
from bot.errors import RefusedError
from bot.job import Now, Outcome
from bot.jobs.runners.spoken import Heard, Speaking, pieces
from tests.publish.samples import a_plan, a_report


def heard(lines):
    now, said = [], []
    ear = Heard(tell=now.append, log=said.append)
    for line in lines:
        ear.line(line)
    return ear.outcome, now, said


def test_everything_that_is_said_is_heard():
    stream = io.StringIO()
    speaking = Speaking(stream, clock=lambda: 0.0)
    outcome = Outcome(ended="published", plan=a_plan(), report=a_report(a_plan()), seconds=3.5)
    speaking.begin("Fetching acme/base", total=100)
    speaking.advance(40)  # a moment later: not worth a line
    speaking.begin("Merging", total=10)
    speaking.say("Checking some words\nand a second line")
    speaking.outcome(outcome)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) < 4200
    found, now, said = heard(lines)
    assert found == outcome
    assert now[0] == Now(stage="fetching")
    assert Now(stage="fetching", total=100) in now
    assert [n.stage for n in now][-1] == "validating"
    assert said == ["Fetching acme/base", "Merging", "Checking some words\nand a second line"]


def test_lines_of_others_are_passed_on_and_believed_nothing():
    odd = [
        "",
        "Downloading",
        "[1]",
        "3",
        '{"now": ["flying", 1, 2]}',
        '{"end": 3}',
        '{"now": 3}',
        '{"say": 1}',
        "{",
    ]
    found, now, said = heard(odd)
    assert (found, now) == (None, [])
    assert said == [*odd[:7], "1", "{"]


def test_an_outcome_with_a_piece_missing_or_changed_is_none(monkeypatch):
    monkeypatch.setattr("bot.jobs.runners.spoken.PIECE", 500)
    lines = [
        json.dumps(p) for p in pieces(Outcome(ended="published", plan=a_plan(), report=a_report(a_plan())))
    ]
    assert len(lines) > 1
    assert heard(lines)[0] is not None
    assert heard([*lines, *lines])[0] is not None  # told twice is told once
    assert heard(lines[1:])[0] is None
    assert heard(lines[:-1])[0] is None
    bomb = json.loads(lines[0])
    bomb["end"] = [1, 1, "!!!"]
    assert heard([json.dumps(bomb)])[0] is None


def test_a_question_is_heard():
    stream, ear = io.StringIO(), Heard(tell=print, log=print)
    Speaking(stream).ask()
    assert not ear.asks
    ear.line(stream.getvalue())
    assert ear.asks


def test_a_refusal_comes_over_whole():
    refused = failed(RefusedError("No.", advice="Do not.", code="no"))
    assert heard([json.dumps(p) for p in pieces(refused)])[0] == refused
