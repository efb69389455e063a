"""The inputs and outputs of the GitHub Action: one table of names, defaults and meanings, and the record of them.

`action.yml` hands every input over as `INPUT_…` in the environment, and has the same list: a test holds them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bot.errors import InputError
from bot.request import QuantizedBase, Way

ROLES = (
    "read",
    "triage",
    "write",
    "maintain",
    "admin",
)  # of a repository, each with what those before it may
FailOn = Literal["refused", "validation", "never"]


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input: its name, what it means, its default, and the values that it takes where those are few.

    `secret`: a token, which is in no repr. `setup`: it is for installing the bot, and `Inputs` does not have it.
    """

    name: str
    says: str
    default: str = ""
    choices: tuple[str, ...] = ()
    secret: bool = False
    setup: bool = False

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "INPUT_" + self.field.upper()

    @property
    def field(self) -> str:
        """Its name in `Inputs`."""
        return self.name.replace("-", "_")


BOOLEAN = ("true", "false")
INPUTS = (
    Input(
        name="adapter", says="The adapter: owner/name on the Hub, or a folder of the checkout (./adapter)."
    ),
    Input(name="adapter-revision", says="Branch, tag or commit of the adapter."),
    Input(name="base", says="The base model, in place of the one that the adapter names."),
    Input(name="base-revision", says="Branch, tag or commit of the base model."),
    Input(
        name="to",
        says="Where the result goes: a Hub repository, owner/name, or a folder (./merged). Empty: it is planned only.",
    ),
    Input(name="pr", says="Open a Hub PR on `to` in place of a commit.", default="false", choices=BOOLEAN),
    Input(name="public", says="If `to` has to be created: make it public.", default="false", choices=BOOLEAN),
    Input(
        name="dtype",
        says="Dtype of the result; auto keeps every tensor's own.",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    ),
    Input(
        name="device",
        says="Where the arithmetic runs.",
        default="auto",
        choices=("auto", "cpu", "cuda"),
    ),
    Input(
        name="validate",
        says="How much of the result is checked.",
        default="full",
        choices=("full", "tensors", "structure", "none"),
    ),
    Input(name="prompts", says="File with prompts for the full check: one a line, or JSON lines."),
    Input(name="text", says="File with a text on which the full check measures perplexity."),
    Input(
        name="runner",
        says="Where the merge executes: local is the machine of the job.",
        default="local",
        choices=("local",),
    ),
    Input(
        name="quantized-base",
        says="For a quantised base: merge into the model it was made from, or into its dequantised weights.",
        default="original",
        choices=("original", "dequantize"),
    ),
    Input(
        name="dry-run",
        says="Do everything but publish.",
        default="false",
        choices=BOOLEAN,
    ),
    Input(
        name="fail-on",
        says="When the step fails: refused (a refusal, too), validation (a failed check, or a fault), never.",
        default="refused",
        choices=("refused", "validation", "never"),
    ),
    Input(
        name="permission",
        says="The role in this repository that a command in a comment takes.",
        default="write",
        choices=ROLES,
    ),
    Input(
        name="allow-pickle",
        says="Read weights that are there only as pickle, as tensors and nothing else.",
        default="false",
        choices=BOOLEAN,
    ),
    Input(name="hf-token", says="Token of the Hub, where no Trusted Publisher is set up.", secret=True),
    Input(name="hf-read-token", says="Token for reading, in place of hf-token.", secret=True),
    Input(name="hf-write-token", says="Token for publishing, in place of hf-token.", secret=True),
    Input(
        name="github-token", says="Token for comments and checks.", default="${{ github.token }}", secret=True
    ),
    Input(name="version", says="The release of adapter-merge-bot to install.", setup=True),
    Input(name="python", says="The Python to install it with.", default="3.12", setup=True),
)
OUTPUTS = {
    "outcome": "published, refused, skipped (nothing to do, or nothing to be published) or failed.",
    "repository": "The Hub repository of the result.",
    "pull-request-url": "The Hub PR of the result, if it is one.",
    "commit": "The commit of the result on the Hub.",
    "report": "Path of the report, merge_report.md; merge_report.json and merge_plan.json lie beside it.",
    "summary": "One sentence that says how it went.",
    "adapter-commit": "The commit of the adapter that was merged.",
    "base-commit": "The commit of the base model that it was merged into.",
    "plan": "The plan as JSON; without its longest lists where they are very long.",
}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the workflow's author has set, read and checked."""

    adapter: str = ""
    adapter_revision: str = ""
    base: str = ""
    base_revision: str = ""
    to: str = ""
    pr: bool = False
    public: bool = False
    dtype: str = "auto"
    device: str = "auto"
    validate: Way = "full"
    prompts: str = ""
    text: str = ""
    runner: str = "local"
    quantized_base: QuantizedBase = "original"
    dry_run: bool = False
    fail_on: FailOn = "refused"
    permission: str = "write"
    allow_pickle: bool = False
    hf_token: str = field(default="", repr=False)
    hf_read_token: str = field(default="", repr=False)
    hf_write_token: str = field(default="", repr=False)
    github_token: str = field(default="", repr=False)


def read(given: Mapping[str, str]) -> Inputs:
    """The inputs out of variables named `INPUT_…`; what is empty has its default.

    Raises InputError naming an input whose value is none, or that another one makes idle.
    """
    values: dict[str, Any] = {}
    for known in INPUTS:
        text = given.get(known.variable, "").strip()
        if text and not known.setup:
            values[known.field] = _value(known, text)
    found = Inputs(**values)
    asked = [name for name in ("prompts", "text") if values.get(name)]
    if asked and found.validate != "full":
        raise InputError(
            f"The input {asked[0]} is for the full check, and validate is {found.validate}.",
            advice=f"Leave out validate, or {asked[0]}.",
            code="bad-input",
        )
    return found


def _value(known: Input, text: str) -> str | bool:
    if known.choices == BOOLEAN:
        text = text.lower()
    if known.choices and text not in known.choices:
        raise InputError(
            f"The input {known.name} is {text!r:.60}.",
            advice=f"It takes {', '.join(known.choices[:-1])} or {known.choices[-1]}."
            if len(known.choices) > 1
            else f"It takes {known.choices[0]}.",
            code="bad-input",
        )
    return text == "true" if known.choices == BOOLEAN else text
