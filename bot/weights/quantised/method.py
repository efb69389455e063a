"""How a config.json says that its weights are quantised, and whether that method can be undone here. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot.records import ConfigEdit

KEY = "quantization_config"
METHODS = frozenset({"bitsandbytes", "fp8", "fbgemm_fp8", "mxfp4"})
# Formats of compressed-tensors whose weights are a tensor times a scale; the others pack several weights in a word.
SCALED = frozenset({"float-quantized", "int-quantized", "naive-quantized"})
REASON = "the weights were dequantised before the merge"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A quantisation: its name (`quant_method`), its settings, and the dotted keys of config.json that tell of it."""

    name: str
    settings: dict[str, Any]
    keys: tuple[str, ...]

    @property
    def title(self) -> str:
        """The method as a reader wants it, with its format where it has several."""
        form = self.settings.get("format")
        return f"{self.name} ({form})" if isinstance(form, str) and form else self.name


def find(config: dict[str, Any]) -> Method | None:
    """The method that a config.json names, at its top or in the config of a part; None when it names none."""
    places = {KEY: config, **{f"{k}.{KEY}": v for k, v in config.items() if isinstance(v, dict)}}
    found = {key: place[KEY] for key, place in places.items() if place.get(KEY)}
    if not found:
        return None
    first = next(iter(found.values()))
    settings = first if isinstance(first, dict) else {}
    return Method(name=_name(settings), settings=settings, keys=tuple(found))


def _name(settings: dict[str, Any]) -> str:
    name = settings.get("quant_method")
    if isinstance(name, str) and name:
        return name
    old = settings.get("load_in_4bit") or settings.get("load_in_8bit")  # before the key existed
    return "bitsandbytes" if old else "an unnamed method"


def can_dequantize(method: Method) -> bool:
    """Whether `--quantized-base dequantize` may be worth a try. The headers have the last word."""
    if method.name != "compressed-tensors":
        return method.name in METHODS
    groups = method.settings.get("config_groups")
    inner = (
        [g.get("format") for g in groups.values() if isinstance(g, dict)] if isinstance(groups, dict) else []
    )
    sparsity = method.settings.get("sparsity_config") or {}
    return (
        {f for f in (method.settings.get("format"), *inner) if f is not None} <= SCALED
        and not method.settings.get("transform_config")  # the weights are rotated, and the model with them
        and isinstance(sparsity, dict)
        and sparsity.get("format") in (None, "dense")
    )


def without(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of config.json that says nothing of a quantisation."""
    plain = {k: v for k, v in config.items() if k != KEY}
    return {
        k: {i: w for i, w in v.items() if i != KEY} if isinstance(v, dict) else v for k, v in plain.items()
    }


def edits(config: dict[str, Any], *, method: Method) -> tuple[ConfigEdit, ...]:
    """The edits that take the quantisation out of config.json."""
    places = {key: config[key.partition(".")[0]] if "." in key else config for key in method.keys}
    return tuple(
        ConfigEdit(key=key, before=place[KEY], after=None, reason=REASON) for key, place in places.items()
    )


def model_dtype(config: dict[str, Any]) -> str:
    """The dtype that config.json gives the model (safetensors' name); BF16 where it gives none that fits."""
    known = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    places = [config, *(v for v in config.values() if isinstance(v, dict))]
    named = [place.get(key) for place in places for key in ("dtype", "torch_dtype")]
    return next(
        (known[str(n).removeprefix("torch.")] for n in named if str(n).removeprefix("torch.") in known),
        "BF16",
    )
