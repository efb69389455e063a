"""What PEFT's config classes refuse when they are made, so that it is refused here, without importing them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bot.plan.known_keys import schema
from bot.plan.rules.history import written_since
from bot.plan.rules.rule import Case, Change, Rule, Stop, short
from bot.plan.rules.values import as_int, as_number
from bot.plan.rules.words import ACTIVATIONS, WAVELETS

SINCE_CAYLEY = 18  # PEFT 0.18 changed the last term of the Cayley-Neumann series
POSITIVE = {
    "LORA": ("r",),
    **dict.fromkeys(
        ("DELORA", "FROD", "GLORA", "HIRA", "HRA", "LOHA", "LOKR", "MISS", "PEANUT", "PSOFT", "PVERA", "RANDLORA",
         "SHIRA", "TINYLORA", "UNILORA", "VERA"), ("r",),
    ),
    "BOFT": (),
    "GRALORA": ("gralora_k",),
    "ROAD": ("group_size",),
    "C3A": ("block_size",),
    "UNILORA": ("r", "theta_d_length", "init_theta_d_bound"),
    "TINYLORA": ("r", "u"),
    "PSOFT": ("r", "num_cayley_neumann_terms"),
}  # fmt: skip
RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("SUPERTUNING", "sparsity"): (0.0, 0.999999999),
    ("TINYLORA", "weight_tying"): (0.0, 1.0),
    ("FROD", "sparse_rate"): (0.0, 1.0),
    ("PSOFT", "cayley_neumann_eps"): (1e-300, 0.999999999),
    ("PEANUT", "depth"): (0, 10**6),
}
CHOICES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("ROAD", "variant"): ("road_1", "road_2", "road_4"),
    ("GLORA", "config_A_B"): ("lora", "vector", "constant", "none"),
    ("GLORA", "config_C"): ("lora", "vector", "none"),
    ("GLORA", "config_D_E"): ("vector", "constant", "none"),
    ("DEFT", "decomposition_method"): ("relu", "qr"),
    ("PSOFT", "ab_svd_init"): ("psoft_init", "pissa_init"),
    ("PSOFT", "psoft_svd"): ("full", "lowrank"),
    ("MISS", "init_weights"): (True, False, "bat", "mini"),
    ("LOKR", "init_weights"): (True, False, "lycoris"),
    ("SHIRA", "mask_type"): ("random",),
    ("PEANUT", "act_fn"): ACTIVATIONS,
    ("WAVEFT", "wavelet_family"): WAVELETS,
    ("UNILORA", "bias"): ("none", "all", "unilora_only"),
}
# Keys of which PEFT wants exactly one that is not zero, with its defaults.
EITHER = {"OFT": {"r": 0, "oft_block_size": 32}, "BOFT": {"boft_block_size": 4, "boft_block_num": 0}}


def _limits(case: Case) -> Iterator[Change | Stop]:
    config, peft_type = case.config, case.peft_type
    for key in POSITIVE.get(peft_type, ()):
        number = as_number(config.get(key, 1))
        if number is None or number <= 0:
            yield _wrong(key, config[key], "a number above zero")
    for (kind, key), (low, high) in RANGES.items():
        if (
            kind == peft_type
            and config.get(key) is not None
            and not low <= (as_number(config[key]) or 0.0) <= high
        ):
            yield _wrong(key, config[key], f"a number from {low:g} to {high:g}")
    for (kind, key), choices in CHOICES.items():
        if kind == peft_type and key in config and not _is_one_of(config[key], choices):
            yield _wrong(key, config[key], " or ".join(map(str, choices)))
    for problem in (_either, _divisible, _subset, _supra, _conflicts):
        yield from problem(case)
    yield from _nulls(case)


def _is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(value is choice or (isinstance(value, str) and value == choice) for choice in choices)


def _nulls(case: Case) -> Iterator[Stop]:
    """A null where PEFT computes with a number, or looks a word up."""
    for key, known in schema(case.peft_type).items():
        if (
            key in case.config
            and case.config[key] is None
            and known.kinds <= {"int", "float", "str"}
            and key not in ("r", "lora_alpha")
        ):
            yield _wrong(key, None, "a word" if "str" in known.kinds else "a number")


def _either(case: Case) -> Iterator[Stop]:
    defaults = EITHER.get(case.peft_type)
    if defaults is None or (case.peft_type == "OFT" and "oft_block_size" not in case.config):
        return
    set_to = {key: as_int(case.config.get(key, default)) for key, default in defaults.items()}
    if sum(value != 0 for value in set_to.values()) != 1:
        first, second = defaults
        yield Stop(
            key=first,
            sentence=f"adapter_config.json sets {first} = {set_to[first]} and {second} = {set_to[second]}: PEFT wants"
            " exactly one of the two, and zero for the other.",
            advice="Put in the values that the adapter was trained with.",
        )


def _divisible(case: Case) -> Iterator[Stop]:
    config = case.config
    if case.peft_type == "GRALORA":
        rank, parts = as_int(config.get("r", 32)), as_int(config.get("gralora_k", 2))
        if rank is None:
            yield _wrong("r", config.get("r"), "a number above zero")
        elif parts and parts > 0 and rank % parts:
            yield _wrong("r", config.get("r", 32), f"a multiple of gralora_k ({parts})")
    if case.peft_type == "ROAD" and (as_int(config.get("group_size", 64)) or 0) % 2:
        yield _wrong("group_size", config["group_size"], "an even number")


def _subset(case: Case) -> Iterator[Stop]:
    targets, ff = case.config.get("target_modules"), case.config.get("feedforward_modules")
    whole = [*ff, *targets] if isinstance(ff, list) and isinstance(targets, list) else [None]
    if not all(isinstance(name, str) for name in whole):
        return
    if (
        case.peft_type == "IA3"
        and isinstance(targets, list)
        and isinstance(ff, list)
        and not set(ff) <= set(targets)
    ):
        yield _wrong("feedforward_modules", ff, "a part of target_modules")


def _supra(case: Case) -> Iterator[Stop]:
    if case.peft_type == "SUPERTUNING":
        rank = case.config.get("r")
        if rank is None and case.config.get("lora_alpha") is not None:
            yield _wrong("r", rank, "a number, since lora_alpha is set,")
        elif rank is not None and (as_int(rank) or 0) <= 0:
            yield _wrong("r", rank, "a number above zero or null")


def _conflicts(case: Case) -> Iterator[Stop]:
    config = case.config
    if case.peft_type == "ADALORA" and config.get("use_dora"):
        yield _wrong("use_dora", config["use_dora"], "false (AdaLoRA has no DoRA)")
    if case.peft_type not in ("LORA", "ADALORA") or not config.get("lora_bias"):
        return
    if config.get("use_dora") or config.get("init_lora_weights", True) not in (True, False):
        yield Stop(
            key="lora_bias",
            sentence="adapter_config.json sets lora_bias beside use_dora or an unusual init, which PEFT refuses.",
            advice="Put in the values that the adapter was trained with.",
        )


def _schedule(case: Case) -> Iterator[Change | Stop]:
    """AdaLoRA's schedule is over; PEFT still wants one that makes sense."""
    if case.peft_type != "ADALORA":
        return
    total, start, end = (
        as_int(case.config.get(k, d)) for k, d in (("total_step", None), ("tinit", 0), ("tfinal", 0))
    )
    if total is not None and total > 0 and start is not None and end is not None and start < total - end:
        return
    steps = 1 + (max(0, start or 0)) + (max(0, end or 0))
    yield Change(key="total_step", after=steps)
    for key, value in (("tinit", start), ("tfinal", end)):
        if value is None or value < 0:
            yield Change(key=key, after=0)


def _oft(case: Case) -> Iterator[Change | Stop]:
    if case.peft_type != "OFT":
        return
    if "oft_block_size" not in case.config:
        yield Stop(
            key="oft_block_size",
            sentence="The OFT adapter has no oft_block_size: it is from PEFT 0.14 or earlier, whose OFT was another.",
            advice="Merge it with the PEFT that it was trained with, 0.13.",
            code="peft-too-old",
        )
        return
    if not written_since(case.config, SINCE_CAYLEY) and case.config.get("use_cayley_neumann", True):
        said = "uses" if "use_cayley_neumann" in case.config else "does not say whether it uses"
        yield Stop(
            key="use_cayley_neumann",
            sentence=f"The OFT adapter {said} the Cayley-Neumann series, and no peft_version of 0.18 or later:"
            " PEFT 0.18 changed the series.",
            advice="Merge it with the PEFT that it was trained with, or add its peft_version if that is 0.18 or later.",
            code="peft-too-old",
        )


def _wrong(key: str, value: Any, wanted: str) -> Stop:
    return Stop(
        key=key,
        sentence=f"adapter_config.json says {key} = {short(value)} where {wanted} belongs.",
        advice="Put in the value that the adapter was trained with.",
    )


SCHEDULE = Rule(
    id="schedule",
    what="AdaLoRA's total_step null, or too short for tinit and tfinal",
    sees=_schedule,
    reason="it says when ranks were given out while it trained; PEFT raises unless it is long enough",
    peft="0.15 and later",
    reference="peft/tuners/adalora/config.py, AdaLoraConfig.__post_init__",
)
LIMITS = (
    Rule(
        id="oft",
        what="OFT from before PEFT 0.15, or with the Cayley-Neumann series from before 0.18: refused",
        sees=_oft,
        reason="PEFT computes it otherwise today",
        peft="before 0.18",
        reference="peft/tuners/oft/config.py, OFTConfig.check_kwargs",
    ),
    Rule(
        id="limits",
        what="values that PEFT's config classes raise for: refused",
        sees=_limits,
        reason="PEFT raises for it",
        peft="0.21",
        reference="__post_init__ of the classes in peft/tuners/*/config.py",
    ),
)
