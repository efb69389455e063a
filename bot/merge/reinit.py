"""Adapters whose initialisation reads or changes the base's weight: it is done again, from the real weight.

The adapter's file holds what was trained; what the initialisation made of the base (PiSSA's residual, OSF's singular
vectors, …) is not in it. The decompositions are exact and deterministic, so doing them again gives the same.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.lora.layer import Embedding, LoraLayer
from peft.tuners.osf.layer import OSFLayer
from peft.tuners.psoft.layer import PsoftLayer
from peft.tuners.tuners_utils import cast_adapter_dtype

from bot.merge.operations import REDONE
from bot.merge.skeleton import ADAPTER
from bot.merge.threads import one_thread

BASE = "base_layer."
BLOCK = 2**22  # numbers that are widened to float64 at a time


def redo(layer: Any, *, config: PeftConfig, init: Any, as_peft: bool) -> None:
    """Initialises the layer from its (real) base weight, then puts the trained tensors back.

    `init` is the config's own `init_lora_weights`, which `config` does not have any more. `as_peft`: to the bit as PEFT
    does, in float32; otherwise PiSSA's part is taken out in float64.
    """
    if init == "pissa" and not as_peft and _is_plain(layer):
        take_out(layer.get_base_layer().weight.data, rank=layer.r[ADAPTER])
        return
    trained = {k: v for k, v in layer.state_dict().items() if not k.startswith(BASE)}
    if not _initialise(layer, config=config, init=init):
        return
    cast_adapter_dtype(layer, ADAPTER)  # a base in 16 bits has given some of it its own dtype
    fresh = {k: v for k, v in layer.state_dict().items() if not k.startswith(BASE)}
    layer.load_state_dict({k: v for k, v in trained.items() if k in fresh}, strict=False, assign=True)


def _is_plain(layer: Any) -> bool:
    """Whether it is a low-rank layer on a matrix, with the positive scale that PiSSA's square roots take."""
    low_rank = isinstance(layer, LoraLayer) and not isinstance(layer, Embedding)
    return low_rank and layer.get_base_layer().weight.ndim == 2 and layer.scaling[ADAPTER] > 0


@torch.no_grad()
def take_out(weight: torch.Tensor, *, rank: int) -> None:
    """Subtracts from a matrix, in place, its part in the first `rank` singular directions: PiSSA's s·B₀A₀.

    From the eigenvectors of W·Wᵀ (or Wᵀ·W, whichever is smaller) in float64: a fraction of the work of PEFT's singular
    value decomposition in float32, and closer to the exact value wherever there is one. PiSSA: arXiv 2404.02948.
    """
    wide = weight.T if weight.shape[0] > weight.shape[1] else weight
    blocks = torch.split(wide, max(1, BLOCK // wide.shape[0]), dim=1)
    gram = torch.zeros(wide.shape[0], wide.shape[0], dtype=torch.float64, device=weight.device)
    with one_thread():
        for block in blocks:
            gram.addmm_(block.double(), block.double().T)
        first = torch.linalg.eigh(gram).eigenvectors[:, -rank:]  # in ascending order
        for block in blocks:
            real = block.double()
            block.copy_(real - first @ (first.T @ real))


def _initialise(layer: Any, *, config: Any, init: Any) -> bool:
    """Whether the layer is of a kind that has to be initialised."""
    kind: Any = layer  # PEFT types these methods only half
    if isinstance(layer, LoraLayer):
        return _lora(kind, init=init)
    if isinstance(layer, OSFLayer):
        kind.update_layer(ADAPTER, kind.effective_rank[ADAPTER], config=config)
    elif isinstance(layer, PsoftLayer):
        kind._build_psoft_ab_cache_buffers(ADAPTER, kind.ab_svd_init[ADAPTER])
    elif isinstance(layer, FrodLayer):
        kind.update_layer(ADAPTER, kind.frod_V, kind.frod_s_indices, kind.frod_s_size, config=config)
    else:
        return False
    return True


def _lora(layer: Any, *, init: Any) -> bool:
    if init not in REDONE or isinstance(layer, Embedding):  # PEFT starts embeddings the usual way
        return False
    base = layer.get_base_layer()
    wide = base.weight.dtype
    base.weight.data = base.weight.data.float()  # both decompose in float32 and take nothing wider
    if init == "pissa":
        layer.pissa_init(ADAPTER, init)
    else:
        layer.olora_init(ADAPTER)
    base.weight.data = base.weight.data.to(wide)
    return True
