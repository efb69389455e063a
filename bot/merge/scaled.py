"""Embeddings that scale what they look up (Gemma 3, BART): PEFT before 0.18 left what it adds there unscaled."""

from __future__ import annotations

from typing import Any

import torch
from packaging.version import InvalidVersion, Version
from peft import PeftModel
from torch import nn

from bot.errors import RefusedError
from bot.merge.skeleton import targets

SINCE = (0, 18)  # the release that scales, and the first that writes down which one it is
# In transformers 4 these scaled behind the embedding, and so what PEFT had added to it as well.
BEHIND = ("gemma", "gemma2", "vaultgemma")


def check_scaled(peft_model: PeftModel, *, version: Any) -> None:
    """Raises RefusedError for an adapter on such an embedding unless `version`, the config's peft_version, is 0.18."""
    model: Any = peft_model.get_base_model()
    if _scales(version) or model.config.model_type in BEHIND:
        return
    for target in targets(peft_model):
        base = target.layer.get_base_layer()
        scale = getattr(base, "embed_scale", 1.0)
        if isinstance(base, nn.Embedding) and (isinstance(scale, torch.Tensor) or scale != 1.0):
            raise RefusedError(
                f"The adapter targets {target.path}, which scales what it looks up, and shows no sign of PEFT 0.18 or"
                " later: earlier ones added to it without the scale.",
                advice="Put peft_version into adapter_config.json if it was trained with 0.18 or later; else deploy it"
                " as an adapter with the PEFT that it was trained with.",
                code="peft-too-old",
            )


def _scales(version: Any) -> bool:
    try:
        return Version(str(version).partition("@")[0]).release >= SINCE
    except InvalidVersion:
        return False
