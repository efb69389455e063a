"""What is merged: the shapes of the base models and the kinds of adapters. Numbers only; `inputs` writes the files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

RANK = 16
ALPHA = 24  # scale 1.5: with a power of two, shortcuts in the arithmetic would not show
SHARD_BYTES = 5_000_000_000  # where the Hub's models of that size are split
BF16 = 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama model with tied embeddings."""

    name: str
    title: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int

    def modules(self) -> dict[str, tuple[int, int]]:
        """The linear modules of one layer and the shapes of their weights: (out, in)."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "mlp.down_proj": (self.hidden, self.ffn),
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint, in the order of its file."""
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            found |= {f"{prefix}{n}.weight": s for n, s in self.modules().items()}
            found |= {
                f"{prefix}{n}.weight": (self.hidden,) for n in ("input_layernorm", "post_attention_layernorm")
            }
        return dict(sorted(found.items()))

    def bytes(self) -> int:
        """Bytes of all tensors in bfloat16."""
        return sum(math.prod(s) for s in self.tensors().values()) * BF16

    def shards(self) -> dict[str, list[str]]:
        """The files of the checkpoint and the tensors in each."""
        place: dict[str, int] = {}
        used = shard = 0
        for name, shape in self.tensors().items():
            size = math.prod(shape) * BF16
            if used and used + size > SHARD_BYTES:
                used, shard = 0, shard + 1
            used, place[name] = used + size, shard
        if not shard:
            return {"model.safetensors": list(place)}
        return {
            f"model-{i + 1:05}-of-{shard + 1:05}.safetensors": list(names)
            for i, names in groupby(place, key=place.__getitem__)
        }

    def config(self) -> dict[str, Any]:
        """Its config.json, as in Llama 3.2's repositories."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.ffn,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.45.0.dev0",
            "use_cache": True,
            "vocab_size": self.vocabulary,
        }


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A kind of LoRA: which modules it has, by the ends of their names, whether it is a DoRA, and how it started."""

    name: str
    title: str
    targets: tuple[str, ...]
    dora: bool = False
    init: bool | str = True

    def modules(self, shape: Shape) -> Iterator[tuple[str, tuple[int, int]]]:
        """Every module of the model that the adapter changes, and the shape of its weight."""
        for layer in range(shape.layers):
            for name, size in shape.modules().items():
                if name.endswith(self.targets):
                    yield f"model.layers.{layer}.{name}", size

    def bytes(self, shape: Shape) -> int:
        """Bytes of its float32 tensors."""
        return sum((RANK * (o + i) + o * self.dora) * 4 for _, (o, i) in self.modules(shape))


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LINEAR = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")

SHAPES = {
    s.name: s
    for s in (
        Shape(
            name="quick", title="a tenth of a gigabyte", hidden=512, layers=8, heads=8, kv_heads=2, head_dim=64,
            ffn=2048, vocabulary=32000,
        ),
        Shape(
            name="1b", title="Llama-3.2-1B's shape", hidden=2048, layers=16, heads=32, kv_heads=8, head_dim=64,
            ffn=8192, vocabulary=128256,
        ),
        Shape(
            name="3b", title="Llama-3.2-3B's shape", hidden=3072, layers=28, heads=24, kv_heads=8, head_dim=128,
            ffn=8192, vocabulary=128256,
        ),
    )
}  # fmt: skip
ADAPTERS = {
    a.name: a
    for a in (
        Adapter(name="all-linear", title="LoRA r=16 on all linear layers", targets=_LINEAR),
        Adapter(name="attention", title="LoRA r=16 on the attention's layers", targets=_ATTENTION),
        Adapter(name="dora", title="DoRA r=16 on all linear layers", targets=_LINEAR, dora=True),
        Adapter(
            name="pissa", title="PiSSA r=16 on keys and values", targets=("k_proj", "v_proj"), init="pissa"
        ),
    )
}
