"""`python -m tests.action.lists` writes the inputs and outputs of action.yml and docs/action.md, from their table."""

import json
import re
from pathlib import Path

from bot.trigger.inputs import BOOLEAN, INPUTS, OUTPUTS, Input

ROOT = Path(__file__).parents[2]
ACTION, PAGE = ROOT / "action.yml", ROOT / "docs/action.md"


def meaning(one: Input) -> str:
    """What it says, with the values that it takes where that is not said already."""
    known = one.choices in {(), BOOLEAN} or all(choice in one.says for choice in one.choices)
    return one.says if known else f"{one.says} One of {', '.join(one.choices)}."


def action(text: str) -> str:
    """action.yml with today's lists."""
    head, rest = text.split("\ninputs:\n", 1)
    steps = rest.split("\nruns:\n", 1)[1]
    handed = "".join(
        f"        {one.variable}: ${{{{ inputs.{one.name} }}}}\n" for one in INPUTS if not one.setup
    )
    steps = re.sub(r"( +INPUT_\w+: .*\n)+", lambda _: handed, steps)
    inputs = "".join(
        f"  {one.name}:\n    description: {_quoted(meaning(one))}\n    default: {_quoted(one.default)}\n"
        for one in INPUTS
    )
    outputs = "".join(
        f"  {name}:\n    description: {_quoted(says)}\n    value: ${{{{ steps.merge.outputs.{name} }}}}\n"
        for name, says in OUTPUTS.items()
    )
    return f"{head}\ninputs:\n{inputs}\noutputs:\n{outputs}\nruns:\n{steps}"


def page(text: str) -> str:
    """docs/action.md with today's tables."""
    inputs = [("input", "default", "meaning"), ("---", "---", "---")]
    inputs += [(f"`{one.name}`", f"`{one.default}`" if one.default else "", meaning(one)) for one in INPUTS]
    outputs = [("output", "meaning"), ("---", "---"), *((f"`{n}`", says) for n, says in OUTPUTS.items())]
    return _filled(_filled(text, "Inputs", inputs), "Outputs", outputs)


def _filled(text: str, heading: str, rows: list[tuple[str, ...]]) -> str:
    """The first table below that heading is put in anew."""
    table = "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in rows)
    found, count = re.subn(
        rf"(?s)(\n## {heading}\n.*?\n\n)(?:\|[^\n]*\n)+", lambda m: m[1] + table, text, count=1
    )
    if not count:
        raise ValueError(f"There is no table below {heading}.")
    return found


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    ACTION.write_text(action(ACTION.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
