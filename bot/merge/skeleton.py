"""PEFT's own layers on a virtual base: what the adapter's config makes of the model, without any weights.

Used twice: on the meta device to see which tensors the adapter must bring (`bot.merge.binding`), and with the
adapter's tensors to merge one module at a time (`bot.merge.modules`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import PreTrainedModel

from bot.errors import RefusedError

ADAPTER = "default"
PREFIX = "base_model.model."


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


def inject(model: PreTrainedModel, *, config: PeftConfig, empty: bool) -> PeftModel:
    """Puts the adapter's layers on the model. `empty`: they hold no storage (meta), for looking at names and shapes.

    Raises RefusedError when the config does not fit the model.
    """
    wrapper = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(str(config.task_type), PeftModel)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of ties and of fan_in_fan_out: both are handled here
            return wrapper(model, config, adapter_name=ADAPTER, low_cpu_mem_usage=empty)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError, KeyError) as error:
        raise RefusedError(
            f"PEFT cannot put this adapter on {type(model).__name__}: {str(error).strip().splitlines()[0]}",
            advice="Check target_modules, or name the right base with --base.",
            code="adapter-does-not-fit",
        ) from error


def expected_tensors(peft_model: PeftModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a file of this adapter holds, as PEFT would save them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = get_peft_model_state_dict(peft_model, adapter_name=ADAPTER, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def tuner_layers(peft_model: PeftModel) -> Iterator[tuple[str, BaseTunerLayer]]:
    """Every tuner layer, by the name of the module that it wraps."""
    for name, module in peft_model.named_modules():
        if isinstance(module, BaseTunerLayer):
            yield name.removeprefix(PREFIX), module


def saved_modules(peft_model: PeftModel) -> Iterator[str]:
    """Names of the modules that the adapter replaces as a whole (`modules_to_save`)."""
    for name, module in peft_model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            yield name.removeprefix(PREFIX)
