"""Base and adapter, unmerged, in float32, through transformers and PEFT: their answers are the merged model's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig

from bot.records import Binding, Plan
from bot.validate.expected import output_dtype
from bot.validate.formula import BLOCK, Expression
from bot.validate.models import LOCAL, config_for, model_type
from bot.validate.offload import Disk
from bot.validate.oracle import Exact, Oracle, transposed_modules
from bot.validate.prompts import NoPromptsError
from bot.validate.questions import Asked, Questions
from bot.validate.quiet import sentence
from bot.validate.reference import NoReferenceError
from bot.validate.workers import workers
from bot.weights.experts import rearranged
from bot.weights.files import LocalFiles
from bot.weights.floats import narrow, widen
from bot.weights.layout import read_layout
from bot.weights.reader import TORCH_DTYPES

WEIGHTS = "adapter_model.safetensors"
PREFIX, COPY = "base_model.model.", ".base_layer.weight"
SAME = 2**-7  # as at the merge: a detour through another 16-bit dtype
CONVERTED = "_converted"  # the methods of tensors that are stored in another form than the model uses
# As at the merge: PEFT is not to rename again, and to drop, what has today's names (experts one by one have them not).
CUSTOM = {"model_type": "custom"}
HEAD = ("num_labels", "id2label", "label2id", "problem_type")


def load_base(
    plan: Plan,
    *,
    base_folder: Path,
    merged: Path,
    dtype: torch.dtype = torch.float32,
    disk: Disk | None = None,
) -> tuple[Any, set[str]]:
    """The base with the heads that the merged config names, and the parameters that it has no tensors for.

    With `disk` most of its weights stay there: only `disk` can ask it.
    """
    config = AutoConfig.from_pretrained(base_folder, **LOCAL)
    target = AutoConfig.from_pretrained(merged, **LOCAL)
    if any(edit.key.split(".")[-1] in HEAD for edit in plan.config_edits):
        for key in HEAD[1:]:
            setattr(config, key, getattr(target, key, None))
    if any(edit.key.endswith("vocab_size") for edit in plan.config_edits):
        config.get_text_config().vocab_size = target.get_text_config().vocab_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a head that the base lacks starts at random
        model, info = load(
            plan,
            base_folder,
            disk=disk,
            config=config_for(model_type(plan.model_class), config),
            dtype=dtype,
            ignore_mismatched_sizes=True,  # what the adapter brings whole may have other rows: looked at below
        )
    stages = plan.stages or (plan,)
    brought = {b.parameter for p in stages for b in p.bindings if b.method == "replace" or _stores_base(b)}
    if odd := {str(k[0]) for k in info["mismatched_keys"]} - brought:
        raise ValueError(f"the base has another shape of {min(odd)}")
    return model, set(info["missing_keys"])


def load(plan: Plan, folder: Path, *, disk: Disk | None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A folder's model, and what transformers says about loading it; with `disk`, most of its weights stay there."""
    kind = model_type(plan.model_class)
    if disk is not None:
        return disk.load(kind, folder, **options, **LOCAL)
    model, info = kind.from_pretrained(folder, output_loading_info=True, **options, **LOCAL)
    return model.eval(), info


def _stores_base(binding: Binding) -> bool:
    """Whether the adapter brings a copy of the base's weight, from which PEFT takes the rows of added tokens."""
    return any(key.endswith(COPY) for key in binding.adapter)


def ask_live(
    model: Any,
    questions: Questions,
    *,
    plan: Plan,
    base_folder: Path,
    adapter_folder: Path,
    exact: Exact | None = None,
    merged: Path | None = None,
) -> Asked:
    """What the base, base + adapter, and the reference rounded as on disk say. Uses `model` up."""
    model.to(questions.device)
    try:
        base = questions.ask(model)
    except Exception as error:  # the base alone, as published: no fault of a merge
        raise NoPromptsError(f"the base itself does not answer them ({sentence(error)})") from error
    *before, last = plan.stages or (plan,)
    for number, stage in enumerate(before):
        _part(model, stage)
        live_stage = with_adapter(model, plan=stage, adapter_folder=adapter_folder, stacked=number > 0)
        model = live_stage.merge_and_unload()
    if before:
        _part(model, last)
    tuned = with_adapter(model, plan=last, adapter_folder=adapter_folder, stacked=bool(before))
    live = questions.ask(tuned, timed=True)
    rounded = None
    if plan.parity == "peft":
        merged_folder = merged or base_folder
        by_peft = merged_by_peft(
            plan, base_folder=base_folder, merged=merged_folder, adapter_folder=adapter_folder
        )
        rounded = questions.ask(by_peft.float().to(questions.device))
    elif is_rounded(plan):
        plain = tuned.merge_and_unload() if fused(plan) else tuned.unload()
        del tuned
        _round(plain, plan=plan, base_folder=base_folder, adapter_folder=adapter_folder, exact=exact)
        rounded = questions.ask(plain)
    return Asked(base=base, live=live, rounded=rounded)


def live_in(
    dtype: torch.dtype, plan: Plan, *, base_folder: Path, merged: Path, adapter_folder: Path, device: str
) -> Any:
    """Base + adapter as most people run them: the base loaded in a dtype of its own, the adapter in float32."""
    model, _ = load_base(plan, base_folder=base_folder, merged=merged, dtype=dtype)
    return with_adapter(model.to(device), plan=plan, adapter_folder=adapter_folder)


def merged_by_peft(plan: Plan, *, base_folder: Path, merged: Path, adapter_folder: Path) -> Any:
    """What `merge_and_unload` makes of base and adapter, the base loaded in its own dtype: parity's very definition."""
    kinds = {b.dtype for b in plan.bindings}
    model, _ = load_base(plan, base_folder=base_folder, merged=merged, dtype=TORCH_DTYPES[min(kinds)])
    return with_adapter(model, plan=plan, adapter_folder=adapter_folder).merge_and_unload()


def _part(model: Any, plan: Plan) -> None:
    """Gives each parameter that a stage unties one of its own: PEFT would merge into what it was tied to, as well."""
    added = {tensor.name for tensor in plan.added}
    for name in (b.parameter for b in plan.bindings if b.tensor in added and b.method != "replace"):
        module, _, attribute = name.rpartition(".")
        own = nn.Parameter(model.get_parameter(name).detach().clone(), requires_grad=False)
        setattr(model.get_submodule(module), attribute, own)


def with_adapter(
    model: Any,
    *,
    plan: Plan,
    adapter_folder: Path,
    stacked: bool = False,
    read: Callable[[Tensor], Tensor] = Tensor.detach,
) -> Any:
    """PEFT's own model, from the patched config and the weights as they are.

    Without its copies of the base's embeddings, which PEFT would put in the base's place: behind others (`stacked`),
    and where they are the base's own, in fewer digits perhaps. `read` gives a parameter's value.
    """
    weights = (
        adapter_folder / plan.adapter_file
    ).absolute()  # a link in the Hub's cache leads to a file without suffix
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "adapter_config.json").write_text(json.dumps(plan.adapter_config), encoding="utf-8")
        if plan.renamed or plan.experts or stacked or any(_stores_base(b) for b in plan.bindings):
            tensors = {plan.renamed.get(name, name): tensor for name, tensor in load_file(weights).items()}
            tensors = rearranged(tensors, experts=plan.experts)
            stored = [name for name in tensors if name.endswith(COPY)]
            owned = {n: read(_copied(model, n)) for n in stored if plan.parity != "peft" and not stacked}
            copies = [n for n in stored if stacked or _is_own(tensors[n], owned.get(n))]
            save_file({n: t for n, t in tensors.items() if n not in copies}, folder / WEIGHTS)
        else:
            (folder / WEIGHTS).symlink_to(weights)
        tuned: Any = PeftModel.from_pretrained(
            model, folder, low_cpu_mem_usage=False, autocast_adapter_dtype=True
        )
        if plan.way != "names" and plan.parity != "peft" and plan.adapter_config.get("peft_type") == "LORA":
            tuned.config = CUSTOM
            set_peft_model_state_dict(tuned, load_file(folder / WEIGHTS))
            del tuned.config
    return tuned.eval()


def _copied(model: Any, name: str) -> Tensor:
    """The weight that an adapter's tensor of this name is a copy of."""
    module = name.removeprefix(PREFIX).removesuffix(COPY).removesuffix(".token_adapter")
    weight: Tensor = model.get_parameter(f"{module}.weight")
    return weight


def _is_own(copy: Tensor, own: Tensor | None) -> bool:
    """Whether the copy says what the model has; for parity (None) nothing is taken from what PEFT loads."""
    if own is None:
        return False
    return own.shape == copy.shape and torch.allclose(copy.to(own), own, rtol=SAME, atol=1e-6)


def is_rounded(plan: Plan) -> bool:
    """Whether any tensor that the merge writes has fewer digits than float32."""
    if plan.dtype not in ("auto", "float32"):
        return True
    return any(output_dtype(plan, binding.dtype) in ("BF16", "F16") for binding in plan.bindings)


@torch.no_grad()
def _round(model: Any, *, plan: Plan, base_folder: Path, adapter_folder: Path, exact: Exact | None) -> None:
    """Replaces each changed parameter by its reference, rounded as on disk; others too when a dtype is asked for."""
    if plan.dtype in ("bfloat16", "float16"):
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, plan.dtype)))
    for name, kind in fused(plan).items():
        # Merged by PEFT, in float32: stacking and splitting commute with rounding.
        parameter = model.get_parameter(name)
        parameter.copy_(parameter.to(TORCH_DTYPES[output_dtype(plan, kind)]))
    made = references(plan, base_folder=base_folder, adapter_folder=adapter_folder, exact=exact)
    for binding, value in made:
        assign(model, binding, value=value, plan=plan)


def fused(plan: Plan) -> dict[str, str]:
    """The changed parameters that the base stores in another form than the model uses, and the dtypes of the parts."""
    return {b.parameter: b.dtype for b in plan.bindings if b.method.endswith(CONVERTED)}


def references(
    plan: Plan, *, base_folder: Path, adapter_folder: Path, exact: Exact | None
) -> Iterator[tuple[Binding, Tensor]]:
    """The reference of each other changed parameter, rounded as on disk, as a matrix in float32; one at a time."""
    oracle = Oracle(
        plan,
        base_folder=base_folder,
        base=read_layout(LocalFiles(base_folder)),
        adapter_folder=adapter_folder,
        transposed=transposed_modules(plan, base_folder=base_folder),
        exact=exact,
    )
    with oracle, workers() as pool:
        for binding in plan.bindings:
            if not binding.method.endswith(CONVERTED):
                yield binding, rounded(oracle.expected(binding), pool=pool)


def rounded(expected: Expression, *, pool: ThreadPoolExecutor) -> Tensor:
    """The reference rounded to its dtype, as float32; a matrix."""
    rows, columns = expected.shape
    result = np.empty((rows, columns), dtype=np.float32)
    step = max(1, BLOCK // max(1, columns))

    def fill(first: int) -> None:
        value = expected.rows(np.arange(first, min(first + step, rows))).value
        result[first : first + step] = widen(narrow(value, expected.dtype), expected.dtype)

    list(pool.map(fill, range(0, rows, step)))
    return torch.from_numpy(result)


def assign(
    model: Any, binding: Binding, *, value: Tensor, plan: Plan, stands_in: nn.Parameter | None = None
) -> None:
    """Gives a parameter its value, or what stands for it.

    Those tied to it follow, unless it is the one that the merge unties, or bindings make them themselves.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    name, bound = binding.parameter, {other.parameter for other in plan.bindings}
    untied = any(tensor.name == binding.tensor for tensor in plan.added)
    old = parameters.get(name)
    if old is None or old.numel() != value.numel():
        raise NoReferenceError(f"the model has no parameter {name} with {value.numel()} numbers")
    new = stands_in
    if new is None:
        new = nn.Parameter(value.reshape(old.shape).to(old.device), requires_grad=False)
    for other, parameter in parameters.items():
        if other == name or (parameter is old and not untied and other not in bound):
            module, _, attribute = other.rpartition(".")
            setattr(model.get_submodule(module), attribute, new)
