"""The rule about configs inside of a LoRA config: PEFT makes a record of each, and never ends for a key it lacks."""

from __future__ import annotations

from collections.abc import Iterator

from bot.plan.known_keys import Key
from bot.plan.rules.rule import Case, Change, Rule, Stop, short
from bot.plan.rules.values import as_number, fits, wanted

# The kinds of their values, in the words of schema.json; a test compares them with the installed PEFT.
INNER: dict[str, dict[str, str]] = {
    "arrow_config": {
        "top_k": "int", "router_temperature": "float", "use_gks": "bool", "rng_seed": "int null",
        "task_adapter_names": "list[str] null", "gks_adapter_names": "list[str] null",
    },
    "corda_config": {
        "cache_file": "null str", "covariance_file": "null str", "corda_method": "str", "verbose": "bool",
        "use_float16_for_covariance": "bool", "prune_temporary_fields": "bool",
    },
    "eva_config": {
        "rho": "float", "tau": "float", "use_label_mask": "bool", "label_mask_value": "int", "whiten": "bool",
        "adjust_scaling_factors": "bool",
    },
    "kasa_config": {"beta": "float", "gamma": "float"},
    "lora_ga_config": {"direction": "str", "scale": "str", "stable_gamma": "int"},
    "monteclora_config": {
        "num_samples": "int", "use_entropy": "bool", "dirichlet_prior": "float", "sample_scaler": "float",
        "kl_loss_weight": "float", "buffer_size": "int",
    },
    "use_bdlora": {
        "target_modules_bd_a": "list[str] null", "target_modules_bd_b": "list[str] null", "nblocks": "int",
        "match_strict": "bool",
    },
    "velora_config": {"num_groups": "int", "scale": "float", "init_type": "str"},
}  # fmt: skip
LEAST = {"rho": 1.0, "tau": 0.0, "beta": 0.0, "gamma": 0.0, "top_k": 0.0}
ABOVE_ZERO = frozenset(
    {"num_groups", "scale", "num_samples", "dirichlet_prior", "buffer_size", "nblocks", "router_temperature"}
)
VELORA_INITS = ("batch_average", "batch_average_once", "random")


def _inner(case: Case) -> Iterator[Change | Stop]:
    if case.peft_type not in ("LORA", "ADALORA"):
        return
    for name, kinds in INNER.items():
        given = case.config.get(name)
        for key, value in given.items() if isinstance(given, dict) else ():
            problem = _problem(key, value, kinds)
            if problem:
                yield Stop(
                    key=name,
                    sentence=f"{name} of adapter_config.json sets {key!r} to {short(value)}{problem}.",
                    advice="Put in the value that the adapter was trained with, or remove the key if it does nothing.",
                    code="config-value" if key in kinds else "unknown-key",
                )
    both = case.config.get("use_bdlora")
    first, second = (names_in(both, f"target_modules_bd_{which}") for which in "ab")
    if first & second:
        yield Stop(
            key="use_bdlora",
            sentence="use_bdlora of adapter_config.json names a module for both of its lists, which PEFT refuses.",
            advice="Put in the lists that the adapter was trained with.",
        )


def names_in(config: object, key: str) -> set[str]:
    """The strings of a list under the key."""
    found = config.get(key) if isinstance(config, dict) else None
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def _problem(key: str, value: object, kinds: dict[str, str]) -> str | None:
    if key not in kinds:
        return ", which PEFT does not know: it may change the arithmetic"
    known = Key(frozenset(kinds[key].split()), 0)
    if not fits(value, known):
        return f" where {wanted(known)} belongs"
    if key == "init_type" and value not in VELORA_INITS:
        return f" where {' or '.join(VELORA_INITS)} belongs"
    number = as_number(value) if known.kinds & {"int", "float"} else None
    if number is None:
        return None
    wrong = (
        number < LEAST.get(key, number)
        or (key in ABOVE_ZERO and number <= 0)
        or (key == "tau" and number > 1)
    )
    return ", which is out of its range" if wrong else None


INNER_CONFIGS = Rule(
    id="inner",
    what="keys and values of kasa_config, eva_config and the like that PEFT does not take: refused",
    sees=_inner,
    reason="PEFT makes a record of it, and does not take this",
    peft="0.14 and later",
    reference="peft/tuners/lora/config.py, _get_lora_subconfig",
)
