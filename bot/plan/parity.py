"""Where `--parity peft` cannot be: what options, config and names of an adapter tell, before any model is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.errors import InputError, RefusedError
from bot.plan.rules.values import HARMLESS
from bot.records import Patch
from bot.request import MergeRequest

ADVICE = "Leave out --parity peft: the exact merge is right here."
STARTS = frozenset({"initial-adapter", "residual-base"})  # patches that say: the start changed the base
# Repairs without which PEFT does not raise, and passes over tensors or makes other ones.
SILENT = frozenset(
    {"dora", "lora-bias", "renamed", "names-in-a-string", "target-prefix", "targets-from-tensors"}
)


def check_options(request: MergeRequest) -> None:
    """Raises InputError for options that contradict `--parity peft`."""
    if request.parity == "exact":
        return
    reason = "keeps the base's dtype and runs on the CPU"
    given = (
        (f"--dtype {request.dtype}", request.dtype != "auto", reason),
        (f"--device {request.device}", request.device not in ("auto", "cpu"), reason),
        ("--quantized-base dequantize", request.quantized_base != "original", "takes no quantised base"),
        ("--initial-adapter", request.initial_adapter is not None, "subtracts no initial adapter"),
    )
    for option, contradicts, why in given:
        if contradicts:
            raise InputError(
                f"--parity peft {why}, and {option} was asked for.",
                advice=f"Leave out {option.partition(' ')[0]} or --parity.",
                code="parity-options",
            )
    if request.further or request.recipe is not None:
        raise InputError(
            "--parity peft is for one adapter, and several are to be combined or stacked.",
            advice="Leave out --parity, or merge each adapter into the result of the one before it.",
            code="parity-options",
        )


def check_adapter(patches: Sequence[Patch], *, renamed: Mapping[str, str]) -> None:
    """Raises RefusedError for an adapter of which PEFT's own merge is no base + adapter."""
    if any(patch.rule in STARTS for patch in patches):
        raise _refused("knows nothing of what the adapter's start changed in the base", code="start")
    for patch in patches:
        wrong_string = patch.rule == "boolean" and patch.after is False and patch.key not in HARMLESS
        if patch.rule in SILENT or wrong_string:
            raise _refused(f"takes {patch.key} of adapter_config.json as it stands", code="config")
    if renamed:
        name = next(iter(renamed))
        raise _refused(f"passes over {len(renamed)} tensors with names like {name}", code="names")


def _refused(what: str, *, code: str) -> RefusedError:
    """The refusal, with what PEFT does wrong."""
    return RefusedError(
        f"PEFT's own merge is not to be reproduced here: it {what}.", advice=ADVICE, code=f"parity-{code}"
    )
