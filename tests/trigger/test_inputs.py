"""The Action's inputs: read out of the environment, with defaults, and refused by name."""

import pytest

from bot.errors import InputError
from bot.trigger.inputs import INPUTS, Inputs, read


def test_nothing_given_is_the_defaults():
    assert read({}) == Inputs() == read({known.variable: "" for known in INPUTS})


def test_the_table_has_the_records_defaults():
    for known in INPUTS:
        if not known.setup and not known.secret:
            value = getattr(Inputs(), known.field)
            assert known.default == (str(value).lower() if isinstance(value, bool) else value)


def test_the_record_has_the_tables_fields():
    assert {known.field for known in INPUTS if not known.setup} == set(Inputs.__dataclass_fields__)


def test_values_are_read():
    found = read({"INPUT_ADAPTER": " alice/a ", "INPUT_PR": "True", "INPUT_FAIL_ON": "never", "INPUT_X": "y"})
    assert (found.adapter, found.pr, found.fail_on) == ("alice/a", True, "never")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PR", "yes"), ("DTYPE", "float8"), ("PERMISSION", "none"), ("RUNNER", "moon"), ("FAIL_ON", "x")],
)
def test_what_an_input_does_not_take_is_said(name, value):
    with pytest.raises(InputError) as caught:
        read({f"INPUT_{name}": value})
    assert name.lower().replace("_", "-") in caught.value.sentence
    assert caught.value.code == "bad-input"


@pytest.mark.parametrize("name", ["prompts", "text"])
def test_questions_for_the_models_without_the_full_check_are_said(name):
    given = {f"INPUT_{name.upper()}": "asked.txt"}
    assert getattr(read(given), name) == "asked.txt"
    with pytest.raises(InputError, match=f"The input {name} is for the full check, and validate is tensors"):
        read(given | {"INPUT_VALIDATE": "tensors"})


def test_tokens_are_in_no_repr():
    secrets = {known.variable: "hf_VerySecretThing" for known in INPUTS if known.secret}
    assert "Secret" not in repr(read(secrets))
