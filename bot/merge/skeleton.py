"""PEFT's own layers on a virtual base: what the adapter's config makes of the model, without any weights.

Used twice: on the meta device to see which tensors the adapter must bring (`bot.merge.binding`), and with the
adapter's tensors to merge one module at a time (`bot.merge.modules`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.beft.layer import BeftLayer
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.peft_types import PeftType
from transformers import PreTrainedModel

from bot.errors import RefusedError
from bot.merge.pruned import prune

ADAPTER = "default"
PREFIX = "base_model.model."
# What PEFT and `re`, which it gives the adapter's expressions to, raise for a config that does not fit a model.
FROM_PEFT = (
    ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError, LookupError, OverflowError, re.error,
)  # fmt: skip


def peft_config(config: dict[str, Any]) -> PeftConfig:
    """PEFT's config record, in inference mode.

    Inits that need data or weights are switched off: every tensor that they would fill is loaded from the adapter.
    Raises RefusedError when PEFT does not accept the config.
    """
    kwargs = {**config, "inference_mode": True}
    if kwargs.get("init_lora_weights") is not None:
        kwargs["init_lora_weights"] = False
    try:
        loaded: PeftConfig = PeftConfig.from_peft_type(**kwargs)  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, KeyError, ImportError) as error:
        raise RefusedError(
            f"PEFT does not accept the adapter_config.json: {error}.",
            advice="Correct the key that it names and run again.",
            code="config-rejected",
        ) from error
    return loaded


def inject(model: PreTrainedModel, *, config: PeftConfig) -> PeftModel:
    """Puts the adapter's layers on the model, without storage (meta) until tensors are loaded.

    Raises RefusedError when the config does not fit the model.
    """
    wrapper = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(str(config.task_type), PeftModel)
    given: Any = config
    pruned = given.rank_pattern if config.peft_type == PeftType.ADALORA else None
    if pruned:
        config = replace(given, rank_pattern=None)  # or PEFT prunes again when tensors are loaded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of ties and of fan_in_fan_out: both are handled here
            peft_model = wrapper(model, config, adapter_name=ADAPTER, low_cpu_mem_usage=True)
        if pruned:
            prune(peft_model, pruned, adapter=ADAPTER)
    except FROM_PEFT as error:
        raise RefusedError(
            f"PEFT cannot put this adapter on {type(model).__name__}: {str(error).strip().splitlines()[0]}",
            advice="Check target_modules, or name the right base with --base.",
            code="adapter-does-not-fit",
        ) from error
    peft_model.train(mode=False)
    return peft_model


def expected_tensors(peft_model: PeftModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a file of this adapter holds, as PEFT would save them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = get_peft_model_state_dict(peft_model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@dataclass(frozen=True, kw_only=True)
class Target:
    """One tuner layer. `path`: where it is in the PEFT model. `parameters`: what a merge may change, plain names.

    `source` is the layer that it is tied to, for one that has no state of its own.
    """

    path: str
    layer: Any
    parameters: tuple[str, ...]
    source: Any = None


def targets(peft_model: PeftModel) -> Iterator[Target]:
    """Every tuner layer of the model."""
    for name, layer in peft_model.named_modules(remove_duplicate=False):
        if not isinstance(layer, BaseTunerLayer):
            continue
        path = name.removeprefix(PREFIX)
        module = _plain_module(path)
        tied = getattr(layer, "tied_adapter", None)
        yield Target(path=path, layer=layer, parameters=tuple(_changed(layer, module)), source=tied)


def _plain_module(path: str) -> str:
    """The module of the plain model: nested wrappers and token adapters are PEFT's own."""
    while path.endswith((".base_layer", ".token_adapter")):
        path = path.rpartition(".")[0]
    return path


def _changed(layer: Any, module: str) -> Iterator[str]:
    if isinstance(layer, ParamWrapper):
        yield f"{module}.{layer.parameter_name}"
        return
    present = {kind for kind, _ in layer.get_base_layer().named_parameters(recurse=False)}
    derived = "weight" not in present and getattr(layer.get_base_layer(), "weight", None) is not None
    if derived and "weight" in _kinds(layer):
        raise RefusedError(
            f"The adapter targets {module}, whose weight is no parameter: it is computed from others (weight norm).",
            advice="Deploy it as an adapter, or train again without this module.",
            code="module-not-plain",
        )
    yield from (f"{module}.{kind}" for kind in _kinds(layer) if kind in present)
    if isinstance(layer, LoraLayer) and "bias" in _kinds(layer) and "bias" not in present:
        raise RefusedError(
            f"The adapter trains a bias for {module} (lora_bias), which has none to add it to.",
            advice="Deploy it as an adapter, or train again without lora_bias.",
            code="no-bias",
        )


def _kinds(layer: Any) -> tuple[str, ...]:
    """What a merge of the layer may change: the weight, and for some methods the bias."""
    if isinstance(layer, LoraLayer):
        return ("weight", "bias") if layer.lora_bias.get(ADAPTER) else ("weight",)
    if isinstance(layer, TrainableTokensLayer):
        return ("weight",)
    return ("bias",) if isinstance(layer, BeftLayer) else ("weight", "bias")


def saved_modules(peft_model: PeftModel) -> Iterator[str]:
    """Names of the modules that the adapter replaces as a whole (`modules_to_save`)."""
    for name, module in peft_model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            yield name.removeprefix(PREFIX)
