"""Base and adapter, unmerged, in float32, through transformers and PEFT: their answers are the merged model's."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig

from bot.records import Binding, Plan
from bot.validate.expected import output_dtype
from bot.validate.formula import BLOCK, Expression
from bot.validate.models import LOCAL, config_for, model_type
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
HEAD = ("num_labels", "id2label", "label2id", "problem_type")


def load_base(
    plan: Plan, *, base_folder: Path, merged: Path, dtype: torch.dtype = torch.float32
) -> tuple[Any, set[str]]:
    """The base with the heads that the merged config names, and the parameters that it has no tensors for."""
    config = AutoConfig.from_pretrained(base_folder, **LOCAL)
    target = AutoConfig.from_pretrained(merged, **LOCAL)
    if any(edit.key.split(".")[-1] in HEAD for edit in plan.config_edits):
        for key in HEAD[1:]:
            setattr(config, key, getattr(target, key, None))
    if any(edit.key.endswith("vocab_size") for edit in plan.config_edits):
        config.get_text_config().vocab_size = target.get_text_config().vocab_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a head that the base lacks starts at random
        model, info = model_type(plan.model_class).from_pretrained(
            base_folder,
            config=config_for(model_type(plan.model_class), config),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # what the adapter brings whole may have other rows: looked at below
            **LOCAL,
        )
    stages = plan.stages or (plan,)
    brought = {b.parameter for p in stages for b in p.bindings if b.method == "replace" or _stores_base(b)}
    if odd := {str(k[0]) for k in info["mismatched_keys"]} - brought:
        raise ValueError(f"the base has another shape of {min(odd)}")
    return model.eval(), set(info["missing_keys"])


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
        live_stage = _with_adapter(model, plan=stage, adapter_folder=adapter_folder, stacked=number > 0)
        model = live_stage.merge_and_unload()
    if before:
        _part(model, last)
    tuned = _with_adapter(model, plan=last, adapter_folder=adapter_folder, stacked=bool(before))
    live = questions.ask(tuned)
    rounded = None
    if plan.parity == "peft":
        merged_folder = merged or base_folder
        by_peft = merged_by_peft(
            plan, base_folder=base_folder, merged=merged_folder, adapter_folder=adapter_folder
        )
        rounded = questions.ask(by_peft.float().to(questions.device))
    elif _is_rounded(plan):
        fused = {b.parameter for b in plan.bindings if b.method.endswith(CONVERTED)}
        plain = tuned.merge_and_unload() if fused else tuned.unload()
        del tuned
        _round(plain, plan=plan, base_folder=base_folder, adapter_folder=adapter_folder, exact=exact)
        rounded = questions.ask(plain)
    return Asked(base=base, live=live, rounded=rounded)


def live_in(
    dtype: torch.dtype, plan: Plan, *, base_folder: Path, merged: Path, adapter_folder: Path, device: str
) -> Any:
    """Base + adapter as most people run them: the base loaded in a dtype of its own, the adapter in float32."""
    model, _ = load_base(plan, base_folder=base_folder, merged=merged, dtype=dtype)
    return _with_adapter(model.to(device), plan=plan, adapter_folder=adapter_folder)


def merged_by_peft(plan: Plan, *, base_folder: Path, merged: Path, adapter_folder: Path) -> Any:
    """What `merge_and_unload` makes of base and adapter, the base loaded in its own dtype: parity's very definition."""
    kinds = {b.dtype for b in plan.bindings}
    model, _ = load_base(plan, base_folder=base_folder, merged=merged, dtype=TORCH_DTYPES[min(kinds)])
    return _with_adapter(model, plan=plan, adapter_folder=adapter_folder).merge_and_unload()


def _part(model: Any, plan: Plan) -> None:
    """Gives each parameter that a stage unties one of its own: PEFT would merge into what it was tied to, as well."""
    added = {tensor.name for tensor in plan.added}
    for name in (b.parameter for b in plan.bindings if b.tensor in added and b.method != "replace"):
        module, _, attribute = name.rpartition(".")
        own = nn.Parameter(model.get_parameter(name).detach().clone(), requires_grad=False)
        setattr(model.get_submodule(module), attribute, own)


def _with_adapter(model: Any, *, plan: Plan, adapter_folder: Path, stacked: bool = False) -> Any:
    """PEFT's own model, from the patched config and the weights as they are.

    Without its copies of the base's embeddings, which PEFT would put in the base's place: behind others (`stacked`),
    and where they are the base's own, in fewer digits perhaps.
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
            copies = [n for n in stored if stacked or _is_own(tensors[n], name=n, model=model, plan=plan)]
            save_file({n: t for n, t in tensors.items() if n not in copies}, folder / WEIGHTS)
        else:
            (folder / WEIGHTS).symlink_to(weights)
        tuned = PeftModel.from_pretrained(model, folder, low_cpu_mem_usage=False, autocast_adapter_dtype=True)
    return tuned.eval()


def _is_own(copy: Tensor, *, name: str, model: Any, plan: Plan) -> bool:
    """Whether an adapter's copy of a weight is the model's own; for parity nothing is taken from what PEFT loads."""
    if plan.parity == "peft":
        return False
    module = name.removeprefix(PREFIX).removesuffix(COPY).removesuffix(".token_adapter")
    own = model.get_parameter(f"{module}.weight")
    return own.shape == copy.shape and torch.allclose(copy.to(own), own, rtol=SAME, atol=1e-6)


def _is_rounded(plan: Plan) -> bool:
    """Whether any tensor that the merge writes has fewer digits than float32."""
    if plan.dtype not in ("auto", "float32"):
        return True
    return any(output_dtype(plan, binding.dtype) in ("BF16", "F16") for binding in plan.bindings)


@torch.no_grad()
def _round(model: Any, *, plan: Plan, base_folder: Path, adapter_folder: Path, exact: Exact | None) -> None:
    """Replaces each changed parameter by its reference, rounded as on disk; others too when a dtype is asked for."""
    layout = read_layout(LocalFiles(base_folder))
    if plan.dtype in ("bfloat16", "float16"):
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, plan.dtype)))
    oracle = Oracle(
        plan,
        base_folder=base_folder,
        base=layout,
        adapter_folder=adapter_folder,
        transposed=transposed_modules(plan, base_folder=base_folder),
        exact=exact,
    )
    bound = {binding.parameter for binding in plan.bindings}
    plain = [b for b in plan.bindings if not b.method.endswith(CONVERTED)]
    for binding in (b for b in plan.bindings if b.method.endswith(CONVERTED)):
        # Merged by PEFT, in float32: stacking and splitting commute with rounding.
        parameter = model.get_parameter(binding.parameter)
        dtype = TORCH_DTYPES[output_dtype(plan, binding.dtype)]
        parameter.copy_(parameter.to(dtype))
    with oracle, workers() as pool:
        for binding in plain:
            _assign(model, binding.parameter, value=rounded(oracle.expected(binding), pool=pool), bound=bound)


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


def _assign(model: Any, name: str, *, value: Tensor, bound: set[str]) -> None:
    """Gives a parameter its value; those tied to it follow unless a binding makes them themselves."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    old = parameters.get(name)
    if old is None or old.numel() != value.numel():
        raise NoReferenceError(f"the model has no parameter {name} with {value.numel()} numbers")
    new = nn.Parameter(value.reshape(old.shape).to(old.device), requires_grad=False)
    for other, parameter in parameters.items():
        if other == name or (parameter is old and other not in bound):
            module, _, attribute = other.rpartition(".")
            setattr(model.get_submodule(module), attribute, new)
