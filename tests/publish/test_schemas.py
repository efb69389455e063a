"""The published JSON schemas are those of the records, and documents are held against them."""

import copy
import json
from dataclasses import dataclass, replace

import pytest

from bot.publish import schemas
from bot.publish.result import PLAN_FILE, REPORT_FILE
from bot.records import SCHEMA, Plan, Report
from bot.request import Recipe
from bot.schema import faults, schema_of
from bot.serial import as_dict, to_json
from tests.publish.samples import a_plan, a_report

REPORT = json.loads(to_json(a_report(a_plan())))
PLAN = json.loads(to_json(a_plan()))


def changed(path: tuple, value) -> dict:
    document = copy.deepcopy(REPORT)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


@pytest.mark.parametrize("name", [REPORT_FILE, PLAN_FILE])
def test_the_files_in_the_package_are_those_of_the_records(name: str) -> None:
    assert schemas.published(name) == schemas.made(name), "run `make schema`"


@pytest.mark.parametrize(("name", "record"), [(REPORT_FILE, Report), (PLAN_FILE, Plan)])
def test_a_field_that_a_record_gains_changes_its_schema(name: str, record: type) -> None:
    more = dataclass(frozen=True, kw_only=True)(
        type(record.__name__, (record,), {"__annotations__": {"more": tuple[Recipe, ...]}, "more": ()})
    )
    schema = schema_of(more, identifier="urn:x", version=SCHEMA)
    assert schema["$defs"][record.__name__]["properties"]["more"]["items"] == {"$ref": "#/$defs/Recipe"}
    assert schema != schemas.published(name)


def test_reports_and_plans_fit() -> None:
    plan = a_plan(recipe=Recipe(method="ties", weights=(1.0, 2.0), density=0.5), stages=(a_plan(),))
    for document, name in (
        (REPORT, REPORT_FILE),
        (json.loads(to_json(plan)), PLAN_FILE),
        (as_dict(replace(a_report(plan), recipe=plan.recipe)), REPORT_FILE),
    ):
        assert schemas.against(json.loads(json.dumps(document)), name) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("schema",), 2, "schema is not 1"),
        (("schema",), True, "schema is not 1"),
        (("verdict",), "perfect", "verdict is none of passed, failed, skipped"),
        (("plan_key",), 7, "plan_key is no string"),
        (("seconds",), "1", "seconds is no number"),
        (("seconds",), True, "seconds is no number"),
        (("checks", 1, "verdict"), "maybe", "checks[1].verdict is none of passed, failed, skipped"),
        (("checks", 0), "passed", "checks[0] is no object"),
        (("files",), [], "files is no object"),
        (("files", "model.safetensors"), None, "files.model.safetensors is no string"),
        (("base", "gated"), 1, "base.gated is no boolean"),
        (("recipe",), {"method": 3}, "recipe.method is no string"),
        (("more",), 1, "more is not known"),
        (("base", "token"), "hf_", "base.token is not known"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(path: tuple, value, said: str) -> None:
    assert schemas.against(changed(path, value), REPORT_FILE) == [said]


@pytest.mark.parametrize("name", ["schema", "verdict", "plan_key", "adapter", "base", "checks", "files"])
def test_what_is_missing_is_named(name: str) -> None:
    document = {key: value for key, value in REPORT.items() if key != name}
    assert schemas.against(document, REPORT_FILE) == [f"{name} is missing"]


def test_what_came_later_may_be_missing() -> None:
    document = {key: value for key, value in REPORT.items() if key not in ("isolation", "notes", "further")}
    assert schemas.against(document, REPORT_FILE) == []


def test_a_document_may_be_anything() -> None:
    deep = json.loads(json.dumps(PLAN))
    for _ in range(200):
        deep = PLAN | {"stages": [deep]}
    assert schemas.against([], REPORT_FILE) == ["the document is no object"]
    assert schemas.against(None, PLAN_FILE) == ["the document is no object"]
    assert "nested too deeply" in schemas.against(deep, PLAN_FILE)[0]


def test_words_that_are_not_known_are_not_passed_over() -> None:
    with pytest.raises(ValueError, match="minLength"):
        faults("", {"type": "string", "minLength": 1})
