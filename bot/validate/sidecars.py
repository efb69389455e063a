"""The small files beside the weights: copies are copies, configs load, the model class fits."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from bot.records import Check, ConfigEdit, Plan, Sidecar
from bot.validate.models import LOCAL, meta_model, missing_parameters
from bot.validate.quiet import guarded
from bot.validate.tokenizer import TOKENIZER, check_tokenizer
from bot.weights.layout import Layout
from bot.wording import counted, few

WRITTEN = frozenset(
    {"transformers_version", "_name_or_path", "dtype", "torch_dtype"}
)  # save_pretrained's own marks
GENERATION = "generation_config.json"
REWRITTEN = frozenset({"README.md"})  # the model card is written anew on publication


def check_sidecars(
    merged: Path,
    *,
    plan: Plan,
    layout: Layout,
    base: Layout,
    base_folder: Path | None,
    adapter_folder: Path | None,
) -> list[Check]:
    """Checks `config`, `generation_config`, `model_class`, `sidecars`, `tokenizer`, `vocabulary`, `chat_template`."""
    origins = {"base": base_folder, "adapter": adapter_folder}
    good = (
        "It loads, and only planned edits tell it from the base's." if base_folder else "It loads, as edited."
    )
    checks = [guarded("config", lambda: _config(merged, plan=plan, base_folder=base_folder), good=good)]
    if (merged / GENERATION).exists():
        checks.append(guarded("generation_config", lambda: _generation(merged), good="It loads."))
    good = "The class builds, and each of its parameters is there that the base has."
    checks.append(guarded("model_class", lambda: _model(merged, plan, layout, base, base_folder), good=good))
    tokenizer = []
    if any(s.name.startswith(TOKENIZER) for s in plan.sidecars):
        tokenizer = check_tokenizer(merged, plan=plan, origins=origins)
    same = {c.name for c in tokenizer if c.verdict == "passed"} >= {"tokenizer", "chat_template"}

    def copies() -> tuple[list[str], str]:
        return _copies(merged, plan=plan, origins=origins, same_tokenizer=same)

    good = "Every small file is its source's, or says the same."
    return [*checks, guarded("sidecars", copies, good=good), *tokenizer]


def _config(merged: Path, *, plan: Plan, base_folder: Path | None) -> tuple[list[str], str]:
    """config.json loads, has the planned edits, and nothing else differs from the base's."""
    loaded = AutoConfig.from_pretrained(merged, **LOCAL).to_dict()
    raw = json.loads((merged / "config.json").read_text(encoding="utf-8"))
    problems = [
        f"{edit.key} is {_at(raw, edit.key)!r} instead of {edit.after!r}."
        for edit in plan.config_edits
        if _at(raw, edit.key) != edit.after
    ]
    if base_folder is not None:
        before, after = _leaves(AutoConfig.from_pretrained(base_folder, **LOCAL).to_dict()), _leaves(loaded)
        odd = [k for k in sorted(before.keys() | after.keys()) if before.get(k) != after.get(k)]
        if odd := [key for key in odd if not _planned(key, plan.config_edits)]:
            problems.append(f"Differs from the base's without a plan: {few(odd)}.")
    return problems, f"{counted(len(_leaves(loaded)), 'value')}, {counted(len(plan.config_edits), 'edit')}"


def _at(config: dict[str, Any], key: str) -> Any:
    """The value at a dotted key; None when it is not there."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _leaves(config: dict[str, Any], *, prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in config.items():
        inner = (
            _leaves(value, prefix=f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
        result |= inner
    return result


def _planned(key: str, edits: tuple[ConfigEdit, ...]) -> bool:
    """Whether an edit explains a difference, itself or (labels, a tie that is told twice) through the loader."""
    labels = {"num_labels", "id2label", "label2id"}
    names = {edit.key.split(".")[-1] for edit in edits} | WRITTEN
    if names & labels:
        names |= labels
    return not names.isdisjoint(key.split("."))


def _generation(merged: Path) -> tuple[list[str], str]:
    GenerationConfig.from_pretrained(merged, local_files_only=True)
    return [], counted(len(json.loads((merged / GENERATION).read_text(encoding="utf-8"))), "value")


def _model(
    merged: Path, plan: Plan, layout: Layout, base: Layout, base_folder: Path | None
) -> tuple[list[str], str]:
    """The class builds, and every parameter is in the files or tied, unless the base lacked it too."""
    model = meta_model(merged, plan.model_class)
    lost = missing_parameters(model, layout.tensors)
    if lost and base_folder is not None:
        given = {binding.parameter for binding in plan.bindings}
        lost -= missing_parameters(meta_model(base_folder, plan.model_class), base.tensors) - given
    problems = [f"Parameters without a tensor: {few(sorted(lost))}."] if lost else []
    count = sum(1 for _ in model.named_parameters(remove_duplicate=False))
    return problems, f"{plan.model_class}, {counted(count, 'parameter tensor')}"


def _copies(
    merged: Path, *, plan: Plan, origins: dict[str, Path | None], same_tokenizer: bool
) -> tuple[list[str], str]:
    """Every sidecar is its source's byte for byte, in all but the key that the plan takes out, or written anew.

    Tools that load and save write JSON and the tokenizer's files anew. Those are the same when they say the same.
    """
    problems, equal, anew = [], 0, 0
    for sidecar in plan.sidecars:
        origin = origins[sidecar.origin]
        if sidecar.name in REWRITTEN or (sidecar.name == "config.json" and plan.config_edits):
            continue
        loaded = same_tokenizer and sidecar.name.startswith((*TOKENIZER, "chat_template"))
        mine = merged / sidecar.name
        if not mine.is_file() and not loaded:
            problems.append(f"{sidecar.name} is missing.")
        elif origin is None or (mine.is_file() and _is_copy(mine, origin / sidecar.name, sidecar)):
            equal += 1
        elif loaded or _says_the_same(mine, origin / sidecar.name):
            anew += 1
        else:
            problems.append(f"{sidecar.name} differs from the {sidecar.origin}'s.")
    figure = counted(equal + anew + len(problems), "file")
    return problems, figure + (f", {anew} written anew" if anew else "")


def _is_copy(mine: Path, theirs: Path, sidecar: Sidecar) -> bool:
    if not sidecar.without:
        return filecmp.cmp(mine, theirs, shallow=False)
    content = json.loads(theirs.read_bytes())
    content.pop(sidecar.without, None)
    return bool(json.loads(mine.read_bytes()) == content)


def _says_the_same(mine: Path, theirs: Path) -> bool:
    """Whether two JSON files hold the same, but for the marks of whoever wrote them."""
    if mine.suffix != ".json":
        return False
    try:
        one, two = (json.loads(path.read_bytes()) for path in (mine, theirs))
    except (ValueError, RecursionError):
        return False
    marks = WRITTEN | {"_from_model_config"}
    left = [{k: v for k, v in c.items() if k not in marks} if isinstance(c, dict) else c for c in (one, two)]
    return bool(left[0] == left[1])
