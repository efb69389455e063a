"""Whatever was measured: the report is the same after it was written and read, and fits its schema."""

import dataclasses
import json
import types
import typing
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.evidence import Evidence
from bot.publish import schemas
from bot.publish.result import REPORT_FILE
from bot.records import Report
from bot.serial import as_dict, from_dict
from tests.publish.samples import a_plan, a_report

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=12),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
}


def made(hint: Any) -> st.SearchStrategy[Any]:
    """Anything that a record's field may hold, whatever fields records gain."""
    kind, inside = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return st.builds(hint, **{name: made(of) for name, of in typing.get_type_hints(hint).items()})
    if kind in (types.UnionType, typing.Union):
        return st.one_of(*map(made, inside))
    if kind is typing.Literal:
        return st.sampled_from(inside)
    if kind is tuple:
        return st.lists(made(inside[0]), max_size=3).map(tuple)
    if kind is dict:
        return st.dictionaries(PLAIN[str], made(inside[1]), max_size=3)
    return PLAIN[hint]


@given(made(Evidence))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_report_is_the_same_after_it_was_written_and_read(evidence: Evidence) -> None:
    report = a_report(a_plan(), evidence=evidence)
    text = json.dumps(as_dict(report), allow_nan=False)
    assert schemas.against(json.loads(text), REPORT_FILE) == []
    assert from_dict(Report, json.loads(text)) == report
