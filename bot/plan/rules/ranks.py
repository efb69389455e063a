"""Rules that hold a LoRA config against the headers of its weights: r, patterns, DoRA, biases; alpha is in none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bot.plan.key_patterns import by_pattern
from bot.plan.rules.evidence import Evidence
from bot.plan.rules.rule import Case, Change, Rule, Stop, short
from bot.plan.rules.values import as_int, as_number

# A pattern of these alone is matched here: it cannot take time. Others are matched by whoever binds the adapter.
MANY = 1_000_000  # matches that take about a second
HARMLESS = re.compile(r"\^?[\w.]+", re.ASCII)


def _evidence(case: Case) -> Evidence | None:
    """What the tensors say, where they can say it: plain LoRA, and every pattern harmless."""
    weights = case.weights
    if case.peft_type != "LORA" or weights is None or not weights.ranks or weights.is_experts:
        return None
    return None if case.config.get("target_parameters") or case.config.get("use_bdlora") else weights


def _rank(case: Case) -> Iterator[Change | Stop]:
    """The rows of lora_A are the rank: of every module, or of all that rank_pattern does not name."""
    weights, said = _evidence(case), as_int(case.config.get("r"))
    patterns = case.config.get("rank_pattern") or {}
    if weights is None:
        yield from _rank_unseen(case)
        return
    if isinstance(patterns, dict) and any((as_int(v) or 1) < 1 or v == 0 for v in patterns.values()):
        key = next(k for k, v in patterns.items() if (as_int(v) or 1) < 1 or v == 0)
        yield _no_rank(key, patterns[key])
        return
    if weights.disagreeing:
        yield _pair(weights.disagreeing[0])
        return
    if not isinstance(patterns, dict) or not all(
        HARMLESS.fullmatch(k) and as_int(v) for k, v in patterns.items()
    ):
        return
    if len(patterns) * len(weights.ranks) > MANY:
        return  # whoever binds the adapter holds its shapes against them
    expected = {module: as_int(by_pattern(patterns, module)) for module in weights.ranks}
    wrong = {m: rank for m, rank in expected.items() if rank is not None and rank != weights.ranks[m]}
    if wrong:
        module, rank = next(iter(wrong.items()))
        yield _contradiction("rank_pattern", module, said=rank, seen=weights.ranks[module])
        return
    plain = {weights.ranks[m] for m, rank in expected.items() if rank is None}
    if said in plain and len(plain) > 1:
        module = next(m for m, rank in expected.items() if rank is None and weights.ranks[m] != said)
        yield _contradiction("r", module, said=said, seen=weights.ranks[module])
    elif len(plain) > 1:
        yield Stop(
            key="r",
            sentence=f"adapter_config.json says r = {short(case.config.get('r'))}, and the tensors have the ranks"
            f" {', '.join(map(str, sorted(plain)))}, which no rank_pattern explains.",
            advice="Put in the r and the rank_pattern that it was trained with: the scale depends on them.",
            code="contradiction",
        )
    elif plain and {said} != plain:
        rank = plain.pop()
        yield Change(
            key="r", after=rank, reason=f"every lora_A has {rank} rows, so it was trained with r = {rank}"
        )


def _no_rank(key: str, value: Any) -> Stop:
    return Stop(
        key="rank_pattern",
        sentence=f"rank_pattern of adapter_config.json gives {short(key)} the rank {short(value)}.",
        advice="Put in the rank_pattern that it was trained with: the scale depends on it.",
    )


def _pair(module: str) -> Stop:
    return Stop(
        key="r",
        sentence=f"The two factors of {module} have different ranks in the file.",
        advice="Save the adapter again from the training run.",
        code="contradiction",
    )


def _rank_unseen(case: Case) -> Iterator[Change | Stop]:
    if case.peft_type == "LORA" and case.config.get("r", 8) is None:
        yield Stop(
            key="r",
            sentence="adapter_config.json says r = null, and there are no LoRA tensors here to tell the rank from.",
            advice="Put in the rank that the adapter was trained with.",
        )


def _contradiction(key: str, module: str, *, said: int | None, seen: int) -> Stop:
    return Stop(
        key=key,
        sentence=f"{key} of adapter_config.json gives {module} the rank {said}, and its tensors have {seen}.",
        advice="Put in the r, rank_pattern and alpha_pattern that it was trained with: the scale depends on them.",
        code="contradiction",
    )


def _alpha(case: Case) -> Iterator[Change | Stop]:
    """An alpha cannot be seen in the tensors: any other value gives another model."""
    config = case.config
    if case.peft_type != "LORA":
        return
    alone = not (config.get("alpha_pattern") or config.get("modules_to_save"))
    if as_number(config.get("lora_alpha")) == 0 and alone:
        yield Stop(
            key="lora_alpha",
            sentence="lora_alpha is 0 in adapter_config.json: the adapter has no effect.",
            advice="Put in the lora_alpha that the adapter was trained with.",
            code="no-effect",
        )
    if config.get("lora_alpha") is not None:
        return
    how = "null" if "lora_alpha" in case.config else "missing"
    yield Stop(
        key="lora_alpha",
        sentence=f"lora_alpha is {how} in adapter_config.json; the scale depends on it, and no tensor shows it.",
        advice="Put in the lora_alpha that the adapter was trained with: the training script or log has it.",
    )


def _dora(case: Case) -> Iterator[Change | Stop]:
    weights = case.weights
    if case.peft_type != "LORA" or weights is None or not weights.modules:
        return
    told = weights.magnitudes
    if told and told != weights.modules:
        module = min(told ^ weights.modules)
        yield Stop(
            key="use_dora",
            sentence=f"Some modules have a magnitude vector of DoRA and others have none, such as {module}: the file is"
            " incomplete.",
            advice="Save the adapter again from the training run.",
            code="contradiction",
        )
    elif told and case.config.get("use_dora") is not True:
        yield Change(key="use_dora", after=True, reason="every module has the magnitude vector of DoRA")
    elif not told and case.config.get("use_dora") is True:
        yield Stop(
            key="use_dora",
            sentence="adapter_config.json says use_dora, and the file has no magnitude vectors: PEFT would make them"
            " from the base, which is another model.",
            advice="Save the adapter again with its lora_magnitude_vector tensors, or set use_dora to false if it was"
            " trained without.",
            code="contradiction",
        )


def _lora_bias(case: Case) -> Iterator[Change | Stop]:
    weights = case.weights
    if (
        case.peft_type == "LORA"
        and weights is not None
        and weights.biases
        and case.config.get("lora_bias") is not True
    ):
        yield Change(key="lora_bias", after=True)


RANKS = (
    Rule(
        id="rank",
        what="r missing or wrong; r or rank_pattern against the tensors",
        sees=_rank,
        reason="the rows of lora_A are the rank",
        peft="all; PEFT raises for other shapes",
        reference="peft/tuners/lora/layer.py, LoraLayer.update_layer",
    ),
    Rule(
        id="alpha",
        what="lora_alpha missing or null: refused",
        sees=_alpha,
        reason="the scale depends on it, and no tensor shows it",
        peft="all; PEFT would take 8",
        reference="https://arxiv.org/abs/2106.09685, section 4.1",
    ),
    Rule(
        id="dora",
        what="use_dora against the magnitude vectors in the file",
        sees=_dora,
        reason="PEFT drops the magnitude vectors without a word unless use_dora is true",
        peft="0.9 and later",
        reference="https://arxiv.org/abs/2402.09353; peft/tuners/lora/dora.py",
    ),
    Rule(
        id="lora-bias",
        what="lora_bias false, and the file has biases of lora_B",
        sees=_lora_bias,
        reason="the file has biases of lora_B, which PEFT drops unless lora_bias is true",
        peft="0.14 and later",
        reference="peft/tuners/lora/config.py, LoraConfig.lora_bias",
    ),
)
