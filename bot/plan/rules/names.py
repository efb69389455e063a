"""Rules about words that PEFT has a fixed list of: peft_type, task_type, bias, inits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bot.plan.known_keys import known_keys, peft_types, schema
from bot.plan.rules.rule import Case, Change, Rule, Stop, short

TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
TYPOS = {"CASUALLM": "CAUSAL_LM"}
LORA_KEYS = frozenset({"lora_alpha", "target_modules"})  # Tinker writes the former alone
BONE_INITS = (True, False, "bat")


def _plain(text: str) -> str:
    """`TaskType.CAUSAL_LM`, `causal-lm` and `CAUSAL_LM` are one word."""
    return re.sub(r"[^A-Z0-9]", "", text.rpartition(".")[2].upper())


def _one_of(value: Any, words: Any) -> str | None:
    """The word that was meant."""
    return {_plain(w): w for w in words}.get(_plain(value)) if isinstance(value, str) else None


def _peft_type(case: Case) -> Iterator[Change | Stop]:
    value = case.config.get("peft_type")
    if isinstance(value, str) and value:
        meant = _one_of(value, [*peft_types(), "BONE"])
        if meant and meant != value:
            yield Change(key="peft_type", after=meant, reason=f"PEFT writes it {meant}")
        return
    if value is not None and not isinstance(value, str):
        yield Stop(
            key="peft_type",
            sentence=f"adapter_config.json says peft_type = {short(value)} where the name of a PEFT type belongs.",
            advice="Put in the name, such as LORA.",
            code="peft-type-unknown",
        )
    keys = {k for k, v in case.config.items() if v is not None} - {"peft_type"}
    if value in (None, "") and keys >= LORA_KEYS and keys <= known_keys("LORA"):
        evident = case.weights is None or case.weights.is_lora
        if evident:
            yield Change(key="peft_type", after="LORA", reason="its keys and its tensors are those of LoRA")


def _bone(case: Case) -> Iterator[Change | Stop]:
    if case.peft_type != "BONE":
        return
    if case.config.get("init_weights", True) not in BONE_INITS:
        yield Stop(
            key="init_weights",
            sentence=f"The adapter is of the type BONE with init_weights {short(case.config['init_weights'])}, which"
            " PEFT 0.14 to 0.18 did not have.",
            advice='Put in the value that it was trained with: true or "bat".',
        )
        return
    yield Change(key="peft_type", after="MISS")
    if case.config.get("bias") == "bone_only":
        yield Change(key="bias", after="miss_only", reason="MiSS has this name for it")


def _task_type(case: Case) -> Iterator[Change | Stop]:
    value = case.config.get("task_type")
    if value is None or value in TASKS:
        return
    meant = _one_of(value, TASKS) or (TYPOS.get(_plain(value)) if isinstance(value, str) else None)
    if meant:
        yield Change(
            key="task_type", after=meant, reason=f"PEFT writes it {meant}, and does not load anything else"
        )
    else:
        yield Change(
            key="task_type",
            reason="PEFT knows no such task; it only chooses the model's class, which the base's own config names too",
        )


def _bias(case: Case) -> Iterator[Change | Stop]:
    key = schema(case.peft_type).get("bias")
    value = case.config.get("bias", "none")
    if key is None or (isinstance(value, str) and value in {"none", "all", f"{case.peft_type.lower()}_only"}):
        return
    if value in (None, False, ""):
        yield Change(key="bias", after="none", reason="it is empty, and PEFT wants a word")
    elif isinstance(value, str) and (word := value.lower()) in {"none", "all", "lora_only"}:
        yield Change(key="bias", after=word, reason="PEFT knows it in lower case")


ANY_CASE = ("gaussian", "olora", "mica")  # PEFT itself takes these in any case, and pissa, say, not


def _init(case: Case) -> Iterator[Change | Stop]:
    for key in ("init_lora_weights", "init_weights"):
        known = schema(case.peft_type).get(key)
        word = case.config.get(key)
        if known and isinstance(word, str) and word.lower() in ("true", "false") and "bool" in known.kinds:
            yield Change(key=key, after=word.lower() == "true")
        elif key == "init_lora_weights" and isinstance(word, str) and word != word.lower() in ANY_CASE:
            yield Change(key=key, after=word.lower())


NAMES = (
    Rule(
        id="peft-type",
        what="peft_type in another spelling, or missing from an adapter that is LoRA by its keys and tensors",
        sees=_peft_type,
        reason="PEFT looks the type up by its exact name",
        peft="all",
        reference="peft/utils/peft_types.py, PeftType",
    ),
    Rule(
        id="bone",
        what="peft_type BONE",
        sees=_bone,
        reason="PEFT 0.19 removed BONE, which MiSS computes exactly as it did",
        peft="0.14 to 0.18",
        reference="https://github.com/huggingface/peft/pull/3051; scripts/convert-bone-to-miss.py there",
    ),
    Rule(
        id="task-type",
        what="task_type in another spelling, or unknown",
        sees=_task_type,
        reason="PEFT raises for a task that it does not know",
        peft="0.14 and later",
        reference="peft/config.py, PeftConfigMixin.__post_init__",
    ),
    Rule(
        id="bias",
        what="bias null, or in capitals",
        sees=_bias,
        reason="PEFT compares the word as it stands",
        peft="all",
        reference="peft/tuners/tuners_utils.py, BaseTuner._mark_only_adapters_as_trainable",
    ),
    Rule(
        id="init",
        what='init_lora_weights or init_weights "true" or "false", as a string',
        sees=_init,
        reason="PEFT raises for an initialisation of that name, so it was trained with the boolean",
        peft="all",
        reference="peft/tuners/lora/layer.py, LoraLayer.reset_lora_parameters",
    ),
)
